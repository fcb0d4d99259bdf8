package hrl_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

var le = binary.LittleEndian

func crc(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// reseal makes all CRCs of a file fit its content again, as far as the
// positions in it allow.
func reseal(b []byte) []byte {
	b = slices.Clone(b)
	if len(b) < 384 {
		return b
	}
	foot := b[len(b)-128:]
	le.PutUint32(b[252:], crc(b[:252]))
	le.PutUint32(foot[92:], le.Uint32(b[252:]))
	end := uint64(len(b) - 128)
	pos, frames := le.Uint64(foot[72:]), le.Uint64(foot[32:])
	if pos <= end && frames <= (end-pos)/12 {
		for i := range frames {
			entry := b[pos+12*i:]
			from, to := le.Uint64(entry), pos
			if i+1 < frames {
				to = le.Uint64(entry[12:])
			}
			if to > end || from > to || to-from < 36 {
				continue
			}
			frame := b[from:to]
			c := crc32.Update(crc(frame[:32]), crc32.MakeTable(crc32.Castagnoli), frame[36:])
			le.PutUint32(frame[32:], c)
			le.PutUint32(entry[8:], c)
		}
		le.PutUint32(foot[88:], crc(b[pos:end]))
	}
	le.PutUint64(foot[96:], uint64(len(b)))
	le.PutUint32(foot[116:], crc(foot[:116]))
	return b
}

// smallLog is a log with frames of every kind and codec that matters, a few KiB.
func smallLog(t testing.TB) []byte {
	t.Helper()
	const b = hrl.BlockSize
	text := bytes.Repeat([]byte("recovery point "), b)[:2*b]
	path, _ := write(t, header(hrl.Delta, 40*b+10), hrl.Options{Codec: hrl.S2, Frame: 2 * b}, []op{
		{hrl.Data, 3 * b, 2 * b, text}, {hrl.Zero, 0, 2 * b, nil}, {hrl.Discarded, 10 * b, b, nil},
		{hrl.Data, 40 * b, 10, []byte("short last")}, {hrl.Zero, 20 * b, 4 * b, nil},
	})
	return must(os.ReadFile(path))
}

// verify opens and reads a file with these bytes.
func verify(t testing.TB, b []byte) (hrl.Description, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.hrl")
	ok(t, os.WriteFile(path, b, 0o600))
	d, err := hrl.VerifyFile(vfs.OS{}, path)
	return d, path, err
}

var atByte = regexp.MustCompile(`at byte (\d+)`)

// refused checks the form of an error about damage, or about a newer version,
// and returns its offset.
func refused(t testing.TB, path string, err error) int {
	t.Helper()
	if !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), path) || fault.Hint(err) == "" {
		t.Fatalf("%v (hint %q), want corrupt or refused with the file's name and a hint", err, fault.Hint(err))
	}
	m := atByte.FindStringSubmatch(err.Error())
	if m == nil {
		t.Fatalf("%v: names no offset", err)
	}
	return must(strconv.Atoi(m[1]))
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	t.Parallel()
	good := smallLog(t)
	_, path, err := verify(t, good)
	ok(t, err)
	r := must(hrl.Open(vfs.OS{}, path))
	bounds := append([]int64{0}, r.Frames()...)
	bounds = append(bounds, int64(len(good)-128), int64(len(good)))
	ok(t, r.Close())
	section := func(off int) int {
		i, found := slices.BinarySearch(bounds, int64(off))
		if found {
			i++
		}
		return i
	}
	for off := range good {
		bad := slices.Clone(good)
		bad[off] ^= 0x11
		ok(t, os.WriteFile(path, bad, 0o600))
		_, err := hrl.VerifyFile(vfs.OS{}, path)
		if !fault.Is(err, fault.Corrupt) { // and not taken for a newer version
			t.Fatalf("flipped byte %d: %v, want corrupt", off, err)
		}
		if at := refused(t, path, err); section(at) != section(off) {
			t.Errorf("flipped byte %d: %v, in another section", off, err)
		}
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	t.Parallel()
	good := smallLog(t)
	path := filepath.Join(t.TempDir(), "x")
	ok(t, os.WriteFile(path, good, 0o600))
	for n := len(good) - 1; n >= 0; n-- {
		ok(t, os.Truncate(path, int64(n)))
		_, err := hrl.Open(vfs.OS{}, path)
		if err == nil {
			t.Fatalf("a file cut to %d bytes is opened", n)
		}
		if at := refused(t, path, err); at > n {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	longer := append(slices.Clone(good), 0)
	if _, p, err := verify(t, longer); err == nil {
		t.Error("a byte after the end is not found")
	} else {
		refused(t, p, err)
	}
}

// A frame that is whole but not the one the index was made for.
func TestSwappedFramesAreFound(t *testing.T) {
	t.Parallel()
	const b = hrl.BlockSize
	ops := func(c byte) []op { return []op{{hrl.Data, 0, b, bytes.Repeat([]byte{c}, b)}} }
	p1, _ := write(t, header(hrl.Delta, b), hrl.Options{}, ops(1))
	p2, _ := write(t, header(hrl.Delta, b), hrl.Options{}, ops(2))
	one, two := must(os.ReadFile(p1)), must(os.ReadFile(p2))
	copy(one[256:256+38+b], two[256:]) // header, list of two bytes, content
	_, path, err := verify(t, one)
	if err == nil || refused(t, path, err) != 256+32 {
		t.Errorf("a frame of another file: %v", err)
	}
}

func TestRefusesByName(t *testing.T) {
	t.Parallel()
	good := smallLog(t)
	foot := len(good) - 128
	idx := int(le.Uint64(good[foot+72:]))
	extents := idx + 12*int(le.Uint64(good[foot+32:]))
	for name, c := range map[string]struct {
		off  int
		val  byte
		want string
	}{
		"must flag":      {14, 1, "at byte 12: unknown must flag 0x10000"},
		"version":        {8, 2, "at byte 8: format version 2 is not known"},
		"journal":        {20, 4, "at byte 20: kind journal cannot be read"},
		"kind":           {20, 9, "at byte 20: kind kind-9 cannot be read"},
		"cipher":         {21, 1, "at byte 21: cipher 1 is not known"},
		"size before":    {119, 0x80, "at byte 112: disk size"},
		"size after":     {126, 0xff, "at byte 120: disk size"},
		"smaller disk":   {121, 0x10, "is outside a disk of"},
		"logical":        {131, 1, "at byte 128: logical sector"},
		"physical":       {135, 1, "at byte 132: physical sector"},
		"segment":        {139, 0x80, "at byte 136: segment number"},
		"block size":     {141, 1, "at byte 140: block size 256"},
		"consistency":    {foot + 16, 4, "consistency 4 is not known"},
		"frames":         {foot + 35, 1, "frames are more than"},
		"extents":        {foot + 43, 1, "extents are more than"},
		"negative":       {foot + 39, 0x80, "a count is out of range"},
		"data bytes":     {foot + 48, 1, "counts are not those of the index"},
		"index position": {foot + 72, 1, "does not end at the footer"},
		"index length":   {foot + 80, 1, "does not fit"},
		"first frame":    {idx, 1, "frame 0 cannot lie at 257"},
		"frame order":    {idx + 14, 1, "frame 1 cannot lie at"},
		"extent offset":  {extents, 1, "does not begin on a block"},
		"extent length":  {extents + 8, 1, "does not end on a block"},
		"extent overlap": {extents + 9, 0x80, "two extents overlap"},
		"extent huge":    {extents + 15, 0x7f, "is outside a disk of"},
		"extent frame":   {extents + 16, 200, "points to a wrong place"},
		"extent place":   {extents + 20, 1, "points to a wrong place"},
		"data place":     {extents + 24 + 22, 0x10, "points to a wrong place"},
		"extent kind":    {extents + 23, 7, "points to a wrong place"},
	} {
		newer := slices.Contains([]string{"must flag", "version", "journal", "kind", "cipher", "block size", "consistency"}, name)
		bad := slices.Clone(good)
		bad[c.off] = c.val
		bad = reseal(bad)
		_, path, err := verify(t, bad)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
			continue
		}
		refused(t, path, err)
		if fault.Is(err, fault.Refused) != newer {
			t.Errorf("%s: it is of kind %s", name, fault.KindOf(err))
		}
		if !bytes.Equal(must(os.ReadFile(path)), bad) {
			t.Errorf("%s: a refused file was changed", name)
		}
	}
}

// What lies between the last frame and the index belongs to that frame, and a
// frame is not longer than the limit.
func TestGapBeforeTheIndex(t *testing.T) {
	t.Parallel()
	const n = hrl.BlockSize
	frame := hrl.EncodeFrame(hrl.Raw, n, bytes.Repeat([]byte{1}, n))
	for gap, want := range map[int]string{1: "in the place of one of", 2 << 20: "the frames do not fill the file"} {
		_, path, err := verify(t, oneFrame(t, append(slices.Clone(frame), make([]byte, gap)...), n))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("gap of %d bytes: %v, want %q", gap, err, want)
			continue
		}
		refused(t, path, err)
	}
}

func TestUnknownMayFlagIsAccepted(t *testing.T) {
	t.Parallel()
	b := smallLog(t)
	b[19] = 0x80
	d, _, err := verify(t, reseal(b))
	if err != nil || d.Header.May != 0x80000000 {
		t.Errorf("may flags %#x, %v", d.Header.May, err)
	}
}

// oneFrame replaces the only frame of a log of one data extent.
func oneFrame(t testing.TB, frame []byte, plain int) []byte {
	t.Helper()
	path, _ := write(t, header(hrl.Full, int64(plain)), hrl.Options{Frame: hrl.MaxPlain},
		[]op{{hrl.Data, 0, int64(plain), bytes.Repeat([]byte{1}, plain)}})
	b := must(os.ReadFile(path))
	foot := len(b) - 128
	idx := le.Uint64(b[foot+72:])
	out := append(slices.Clone(b[:256]), frame...)
	le.PutUint64(b[foot+72:], uint64(len(out)))
	return reseal(append(out, b[idx:]...))
}

func TestBombsAreRefused(t *testing.T) {
	zenc := must(zstd.NewWriter(nil))
	zeros := make([]byte, 64<<20)
	known := zenc.EncodeAll(zeros, nil) // says its size
	var buf bytes.Buffer
	stream := must(zstd.NewWriter(&buf)) // does not
	must(stream.Write(zeros))
	ok(t, stream.Close())
	ok(t, zenc.Close())
	for name, c := range map[string]struct {
		codec  hrl.Codec
		stored []byte
	}{
		"zstd with its size": {hrl.Zstd, known}, "zstd without": {hrl.Zstd, buf.Bytes()},
		"s2": {hrl.S2, s2.Encode(nil, zeros)}, "s2 length only": {hrl.S2, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}},
	} {
		if len(c.stored) > hrl.MaxPlain {
			c.stored = c.stored[:hrl.MaxPlain]
		}
		b := oneFrame(t, hrl.EncodeFrame(c.codec, hrl.MaxPlain, c.stored), hrl.MaxPlain)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, path, err := verify(t, b)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		refused(t, path, err)
		if n := after.TotalAlloc - before.TotalAlloc; n > 24<<20 {
			t.Errorf("%s: %d MiB were allocated", name, n>>20)
		}
	}
}

func TestFrameFaults(t *testing.T) {
	t.Parallel()
	const n = 2 * hrl.BlockSize
	plain := bytes.Repeat([]byte{1}, n)
	edit := func(f func(b []byte)) []byte { b := hrl.EncodeFrame(hrl.Raw, n, plain); f(b); return b }
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"magic":          {edit(func(b []byte) { b[0]++ }), "a frame does not begin here"},
		"kind":           {edit(func(b []byte) { b[4] = 4 }), "extent kind 4"},
		"codec":          {edit(func(b []byte) { b[5] = 3 }), "codec 3"},
		"no extents":     {edit(func(b []byte) { b[8] = 0 }), "0 extents"},
		"many extents":   {edit(func(b []byte) { b[10] = 1 }), "65537 extents"},
		"more extents":   {edit(func(b []byte) { b[8] = 2 }), "extent list is damaged"},
		"long list":      {edit(func(b []byte) { b[15] = 1 }), "an extent list of"},
		"list length":    {edit(func(b []byte) { b[12]++ }), "in the place of one of"},
		"plain length":   {edit(func(b []byte) { b[19] = 1 }), "plain bytes"},
		"no content":     {edit(func(b []byte) { le.PutUint32(b[16:], 0) }), "plain bytes"},
		"other content":  {edit(func(b []byte) { b[17] = 0x30 }), "extents of 8192 bytes with 12288"},
		"stored length":  {edit(func(b []byte) { b[23] = 1 }), "stored bytes"},
		"content":        {edit(func(b []byte) { b[len(b)-1]++ }), "content checksum"},
		"zero with data": {edit(func(b []byte) { b[4] = 2 }), "plain bytes"},
		"wrong codec":    {edit(func(b []byte) { b[5] = 1 }), "s2"},
		"extent moved":   {edit(func(b []byte) { b[36] = 2 }), "is outside a disk"},
		"extent length":  {edit(func(b []byte) { b[37] = 2 }), "extents of 4096 bytes with 8192"},
		"short extent":   {edit(func(b []byte) { b[37] = 5 }), "extent list is damaged"},
		"short raw":      {hrl.EncodeFrame(hrl.Raw, n, plain[1:]), "8191 raw bytes stored, want 8192"},
		"short s2":       {hrl.EncodeFrame(hrl.S2, n, s2.Encode(nil, plain[1:])), "s2 content of 8191 bytes"},
	} {
		_, path, err := verify(t, oneFrame(t, c.frame, n))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
			continue
		}
		if at := refused(t, path, err); at < 256 || at > 256+len(c.frame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The index says one thing and a frame another: reading finds it.
func TestIndexAgainstFrames(t *testing.T) {
	t.Parallel()
	const b = hrl.BlockSize
	path, _ := write(t, header(hrl.Delta, 8*b), hrl.Options{}, []op{{hrl.Data, 0, b, bytes.Repeat([]byte{1}, b)}})
	good := must(os.ReadFile(path))
	extent := len(good) - 128 - 24
	bad := slices.Clone(good)
	bad[extent+1] = 0x20 // offset 8192
	bad = reseal(bad)
	_, p, err := verify(t, bad)
	refused(t, p, err)
	r := must(hrl.Open(vfs.OS{}, p))
	defer r.Close()
	_, err = r.Overlay(0, make([]byte, 8*b))
	refused(t, p, err)
	_, err = hrl.Merge(t.Context(), vfs.OS{}, p+".m", header(hrl.Delta, 8*b), footer(), hrl.Options{}, r)
	refused(t, p, err)
	if _, err := os.Stat(p + ".m"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a merge of a damaged log left its file")
	}
}

// An extent that the index has and no frame, and two that point to each
// other's frames.
func TestIndexLies(t *testing.T) {
	t.Parallel()
	const b = hrl.BlockSize
	path, _ := write(t, header(hrl.Delta, 8*b), hrl.Options{Frame: b},
		[]op{{hrl.Data, 0, b, bytes.Repeat([]byte{1}, b)}, {hrl.Data, 2 * b, b, bytes.Repeat([]byte{2}, b)}})
	good := must(os.ReadFile(path))
	foot := len(good) - 128

	swapped := slices.Clone(good)
	swapped[foot-48+16], swapped[foot-24+16] = 1, 0
	_, p, err := verify(t, reseal(swapped))
	refused(t, p, err)

	extra := append(slices.Clone(good[:foot]), good[foot-24:]...) // the last entry twice
	extra[foot+1] = 0x40                                          // and now for offset 16384
	f := extra[len(extra)-128:]
	le.PutUint64(f[40:], 3)
	le.PutUint64(f[48:], 3*b)
	le.PutUint64(f[80:], 2*12+3*24)
	_, p, err = verify(t, reseal(extra))
	refused(t, p, err)
	if !strings.Contains(err.Error(), "the index has 3 extents, the frames 2") {
		t.Errorf("an extent too many: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(smallLog(f))
	f.Fuzz(func(t *testing.T, b []byte) { readAll(t, b) })
}

// FuzzWalk gets past the checksums: they are made to fit.
func FuzzWalk(f *testing.F) {
	f.Add(smallLog(f))
	rnd := rand.New(rand.NewPCG(1, 1))
	for i, c := range []hrl.Codec{hrl.Raw, hrl.S2, hrl.Zstd} {
		size := int64(20*hrl.BlockSize + i)
		path, _ := write(f, header(hrl.Undo, size), hrl.Options{Codec: c, Frame: 2 * hrl.BlockSize}, randomOps(rnd, size))
		f.Add(must(os.ReadFile(path)))
	}
	f.Fuzz(func(t *testing.T, b []byte) { readAll(t, reseal(b)) })
}

// readAll reads a file in every way; errors are corrupt or none.
func readAll(t *testing.T, b []byte) {
	path := filepath.Join(t.TempDir(), "x")
	ok(t, os.WriteFile(path, b, 0o600))
	r, err := hrl.Open(vfs.OS{}, path)
	if err != nil {
		refused(t, path, err)
		return
	}
	defer r.Close()
	if f := r.Footer(); f.Extents*24+f.Frames*36 > int64(len(b)) {
		t.Fatalf("%d extents in %d bytes", f.Extents, len(b))
	}
	var first error
	for _, err := range r.Extents() {
		ok(t, err)
	}
	p := make([]byte, 64<<10)
	if _, err := r.Overlay(8192, p); err != nil {
		first = err
		refused(t, path, err)
	}
	err = r.Verify()
	if err != nil {
		refused(t, path, err)
	}
	if err == nil && first != nil {
		t.Fatalf("Verify passes, Overlay gives %v", first)
	}
	if r.Header().SizeAfter < 1<<30 && r.Footer().ZeroBytes < 1<<30 {
		_, err = hrl.Merge(t.Context(), vfs.OS{}, path+"m", r.Header(), r.Footer(), hrl.Options{}, r, r)
		if err != nil {
			refused(t, path, err)
		}
	}
	_ = fmt.Sprint(r.Header(), r.Footer())
}
