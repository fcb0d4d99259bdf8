package hrl_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

const b4k = hrl.BlockSize

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x")
	for name, c := range map[string]struct {
		edit func(h *hrl.Header, o *hrl.Options)
		want string
	}{
		"kind":     {func(h *hrl.Header, _ *hrl.Options) { h.Kind = 0 }, "kind kind-0"},
		"journal":  {func(h *hrl.Header, _ *hrl.Options) { h.Kind = hrl.Journal }, "kind journal"},
		"size":     {func(h *hrl.Header, _ *hrl.Options) { h.SizeAfter = hrl.MaxDisk + 1 }, "disk size"},
		"negative": {func(h *hrl.Header, _ *hrl.Options) { h.SizeBefore = -1 }, "disk size"},
		"segment":  {func(h *hrl.Header, _ *hrl.Options) { h.Segment = hrl.MaxSegment }, "segment number"},
		"cipher":   {func(h *hrl.Header, _ *hrl.Options) { h.Cipher = 1 }, "cipher 1"},
		"big":      {func(_ *hrl.Header, o *hrl.Options) { o.Frame = hrl.MaxPlain + b4k }, "frames of"},
		"small":    {func(_ *hrl.Header, o *hrl.Options) { o.Frame = 100 }, "frames of 100"},
		"odd":      {func(_ *hrl.Header, o *hrl.Options) { o.Frame = b4k + 1 }, "frames of 4097"},
		"codec":    {func(_ *hrl.Header, o *hrl.Options) { o.Codec = 9 }, "codec-9"},
	} {
		h, o := header(hrl.Delta, b4k), hrl.Options{}
		c.edit(&h, &o)
		if _, err := hrl.Create(vfs.OS{}, path, h, o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	h := header(hrl.Delta, hrl.MaxDisk)
	h.Segment = hrl.MaxSegment - 1
	w, err := hrl.Create(vfs.OS{}, path, h, hrl.Options{Frame: hrl.MaxPlain})
	ok(t, err)
	ok(t, w.Zero(0, hrl.MaxDisk))
	_, err = w.Close(footer())
	ok(t, err)
	_, err = hrl.VerifyFile(vfs.OS{}, path)
	ok(t, err)
}

func TestWriterRefusesExtents(t *testing.T) {
	t.Parallel()
	page := make([]byte, 2*b4k)
	w := must(hrl.Create(vfs.OS{}, filepath.Join(t.TempDir(), "x"), header(hrl.Delta, 4*b4k+9), hrl.Options{}))
	for name, err := range map[string]error{
		"unaligned offset": w.Zero(1, b4k-1), "unaligned end": w.Data(0, page[:9]), "past the end": w.Discard(4*b4k, 10),
		"empty": w.Data(0, nil), "negative": w.Zero(-b4k, b4k), "negative length": w.Zero(0, -b4k),
		"overflow": w.Zero(b4k, 1<<62), "beyond": w.Zero(1<<62, b4k),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ok(t, w.Data(4*b4k, page[:9])) // the short tail is fine, and the writer still lives
	_, err := w.Close(footer())
	ok(t, err)
	if w.Data(0, page) == nil || w.Zero(0, b4k) == nil {
		t.Error("a closed writer takes extents")
	}
	if _, err := w.Close(footer()); err == nil {
		t.Error("closed twice without an error")
	}
	ok(t, w.Abort())
}

func TestCloseRefusesAndRemoves(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x")
	w := must(hrl.Create(vfs.OS{}, path, header(hrl.Delta, 9*b4k), hrl.Options{}))
	ok(t, w.Zero(2*b4k, 2*b4k))
	ok(t, w.Data(3*b4k, bytes.Repeat([]byte{1}, b4k)))
	if _, err := w.Close(footer()); err == nil || !strings.Contains(err.Error(), "overlap at offset 12288") {
		t.Errorf("overlap: %v", err)
	}
	gone(t, path)
	w = must(hrl.Create(vfs.OS{}, path, header(hrl.Delta, 9*b4k), hrl.Options{}))
	if _, err := w.Close(hrl.Footer{Consistency: "perfect"}); err == nil {
		t.Error("an unknown consistency was taken")
	}
	gone(t, path)
	w = must(hrl.Create(vfs.OS{}, path, header(hrl.Delta, 9*b4k), hrl.Options{}))
	ok(t, w.Abort())
	ok(t, w.Abort())
	gone(t, path)
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

func TestExtentLimit(t *testing.T) {
	t.Parallel()
	const limit = 2 * hrl.MaxFrameExtents
	for _, extra := range []int64{0, 1} {
		path := filepath.Join(t.TempDir(), "x")
		w := must(hrl.Create(vfs.OS{}, path, header(hrl.Delta, 1<<40), hrl.Options{}))
		w.SetExtentLimit(limit)
		for i := range int64(limit) + extra {
			if full := w.Full(); full != (i >= limit/2) {
				t.Fatalf("Full is %v with %d extents of %d", full, i, limit)
			}
			ok(t, w.Zero(2*i*b4k, b4k))
		}
		_, err := w.Close(footer())
		if (err != nil) != (extra > 0) {
			t.Errorf("%d extents more than the limit: %v", extra, err)
		}
	}
}

// An empty log is a log: nothing changed. A zero instant stays zero.
func TestEmptyLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x")
	h := header(hrl.Delta, 0)
	h.File, h.From = ident.ID{}, ident.PointID{}
	w := must(hrl.Create(vfs.OS{}, path, h, hrl.Options{}))
	info, err := w.Close(hrl.Footer{})
	ok(t, err)
	d, err := hrl.VerifyFile(vfs.OS{}, path)
	ok(t, err)
	if info.Size != 256+128 || d.Footer.Extents != 0 || !d.Footer.Instant.IsZero() || d.Footer.Consistency != "" {
		t.Errorf("%+v, %+v", info, d.Footer)
	}
	if info.File.IsZero() || d.Header.File != info.File {
		t.Error("the file got no id")
	}
	r := must(hrl.Open(vfs.OS{}, path))
	defer r.Close()
	if held, err := r.Overlay(0, make([]byte, 10)); held != 0 || err != nil {
		t.Errorf("held %d, %v", held, err)
	}
}

// Stored never says less than a close now would make.
func TestStoredIsABound(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		path := filepath.Join(t.TempDir(), "x")
		w := must(hrl.Create(vfs.OS{}, path, header(hrl.Delta, size), hrl.Options{}))
		ops := randomOps(rnd, size)
		apply(t, w, ops[:rnd.IntN(len(ops))])
		bound := w.Stored()
		info, err := w.Close(footer())
		ok(t, err)
		if info.Size > bound || bound > info.Size+info.Size/8+4096+40*info.Extents {
			t.Errorf("%d bytes stored, Stored said %d", info.Size, bound)
		}
	}
}

func TestCodecs(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("the same words again and again. "), 32<<10/32)
	random := make([]byte, 32<<10)
	rnd := rand.New(rand.NewPCG(1, 5))
	for i := range random {
		random[i] = byte(rnd.Uint32())
	}
	for _, c := range []struct{ asked, text hrl.Codec }{{hrl.Raw, hrl.Raw}, {hrl.S2, hrl.S2}, {hrl.Zstd, hrl.Zstd}, {hrl.Auto, hrl.S2}} {
		for _, p := range [][]byte{text, random} {
			path, _ := write(t, header(hrl.Delta, 32<<10), hrl.Options{Codec: c.asked}, []op{{hrl.Data, 0, 32 << 10, p}})
			d := must(hrl.VerifyFile(vfs.OS{}, path))
			want := c.text
			if &p[0] == &random[0] {
				want = hrl.Raw // will not shrink
			}
			if len(d.StoredBytes) != 1 || d.StoredBytes[want.String()] == 0 {
				t.Errorf("%s: stored as %v, want %s", c.asked, d.StoredBytes, want)
			}
		}
	}
	for _, s := range []string{"auto", "raw", "s2", "zstd"} {
		if c, err := hrl.ParseCodec(s); err != nil || c.String() != s {
			t.Errorf("%q parses to %s, %v", s, c, err)
		}
	}
	if c, err := hrl.ParseCodec(""); err != nil || c != hrl.Auto {
		t.Errorf("no codec parses to %s, %v", c, err)
	}
	if _, err := hrl.ParseCodec("lz4"); err == nil {
		t.Error("lz4 is parsed")
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	path, info := write(t, header(hrl.Undo, goldenSize), hrl.Options{}, goldenOps())
	d := must(hrl.Describe(vfs.OS{}, path))
	if d.Size != info.Size || d.Verified || d.Path != path {
		t.Errorf("%+v", d)
	}
	j := string(must(json.Marshal(must(hrl.VerifyFile(vfs.OS{}, path)))))
	for _, want := range []string{`"kind":"undo"`, `"consistency":"app"`, `"verified":true`, `"size_after":50152`,
		`"instant":"2023-11-14T22:13:20.123456789Z"`, `"sha256":"`, `"stored_bytes":{"raw":`, `"zero_bytes":8192`} {
		if !strings.Contains(j, want) {
			t.Errorf("%s lacks %s", j, want)
		}
	}
	if _, err := hrl.Describe(vfs.OS{}, path+"no"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

var errDisk = errors.New("disk on fire")

// badFS fails every write, sync or close from the nth on.
type badFS struct {
	vfs.OS
	left *int
}

type badFile struct {
	vfs.File
	left *int
}

func (b badFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := b.OS.OpenFile(name, flag, perm)
	return badFile{f, b.left}, err
}

func (b badFile) WriteAt(p []byte, off int64) (int, error) {
	if *b.left--; *b.left < 0 {
		return 0, errDisk
	}
	return b.File.WriteAt(p, off)
}

func (b badFile) Sync() error {
	if *b.left--; *b.left < 0 {
		return errDisk
	}
	return b.File.Sync()
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	for n := range 100 {
		left := n
		path := filepath.Join(t.TempDir(), "x")
		err := func() error {
			w, err := hrl.Create(badFS{left: &left}, path, header(hrl.Delta, goldenSize), hrl.Options{Frame: b4k})
			if err != nil {
				return err
			}
			for _, o := range goldenOps() {
				if o.kind == hrl.Data {
					err = w.Data(o.off, o.p)
				}
				if err != nil {
					return errors.Join(err, w.Abort())
				}
			}
			_, err = w.Close(hrl.Footer{Consistency: recovery.Crash})
			return err
		}()
		if err == nil {
			if n < 8 {
				t.Fatalf("only %d operations", n)
			}
			return
		}
		if !errors.Is(err, errDisk) {
			t.Fatalf("operation %d: %v", n, err)
		}
		gone(t, path)
	}
	t.Fatal("never came to the end")
}
