package blocksum_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

const key = 0x1122334455667788

func create(t *testing.T, size int64) (*blocksum.Table, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.table")
	tab, err := blocksum.Create(vfs.OS{}, path, key, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tab.Close() })
	return tab, path
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHash(t *testing.T) {
	t.Parallel()
	page := make([]byte, blocksum.BlockSize)
	if h := blocksum.Hash(key, 7, page); h != 0 {
		t.Errorf("hash of a zero block is %x", h)
	}
	if h := blocksum.Hash(key, 7, page[:100]); h != 0 {
		t.Errorf("hash of a short zero block is %x", h)
	}
	page[99] = 1
	h := blocksum.Hash(key, 7, page)
	if h == 0 || h == blocksum.Hash(key, 8, page) || h == blocksum.Hash(key+1, 7, page) {
		t.Error("the hash does not depend on content, block and key")
	}
	if short := blocksum.Hash(key, 7, page[:100]); short != h {
		t.Errorf("a short block hashes to %x, padded to %x", short, h)
	}
}

// Not parallel: testing.AllocsPerRun counts for the whole process.
func TestHashDoesNotAllocate(t *testing.T) {
	page := make([]byte, blocksum.BlockSize)
	page[99] = 1
	if n := testing.AllocsPerRun(100, func() { blocksum.Hash(key, 7, page); blocksum.Hash(key, 7, page[:100]) }); n != 0 {
		t.Errorf("Hash allocates %v times", n)
	}
}

// The values are durable and go over the wire: they never change.
func TestHashValues(t *testing.T) {
	t.Parallel()
	page := make([]byte, blocksum.BlockSize)
	for i := range page {
		page[i] = byte(i * 7)
	}
	if got := blocksum.Hash(key, 0, page); got != hashBlock0 {
		t.Errorf("hash of block 0 is %#x, want %#x", got, uint64(hashBlock0))
	}
	if got := blocksum.Hash(key, 1<<40, page[:512]); got != hashShort {
		t.Errorf("hash of the short block is %#x, want %#x", got, uint64(hashShort))
	}
}

func TestIsZero(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 4095, 4096, 4097, 10000} {
		p := make([]byte, n)
		if !blocksum.IsZero(p) {
			t.Errorf("%d zeros are not zero", n)
		}
		if n > 0 {
			p[n-1] = 1
			if blocksum.IsZero(p) {
				t.Errorf("%d bytes with a last 1 are zero", n)
			}
		}
	}
}

// model is the table as a plain slice.
type model []uint64

func (m model) sum() (s uint64) {
	for _, h := range m {
		s += h
	}
	return s
}

func check(t *testing.T, tab *blocksum.Table, m model) {
	t.Helper()
	if tab.Blocks() != int64(len(m)) {
		t.Fatalf("%d blocks, want %d", tab.Blocks(), len(m))
	}
	if got := must(tab.Sum()); got != m.sum() {
		t.Fatalf("sum %x, want %x", got, m.sum())
	}
	sums := must(tab.RangeSums(0, blocksum.MaxRangeSums))
	if int64(len(sums)) != tab.Ranges() {
		t.Fatalf("%d range sums for %d ranges", len(sums), tab.Ranges())
	}
	var buf [blocksum.RangeBlocks]uint64
	for r := range tab.Ranges() {
		n := must(tab.ReadRange(r, buf[:]))
		want := m[r*blocksum.RangeBlocks:][:n]
		for i, h := range want {
			if buf[i] != h {
				t.Fatalf("block %d is %x, want %x", r*blocksum.RangeBlocks+int64(i), buf[i], h)
			}
		}
		if sums[r] != want.sum() {
			t.Fatalf("sum of range %d is %x, want %x", r, sums[r], want.sum())
		}
	}
}

func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	size := int64(5*blocksum.RangeBlocks*blocksum.BlockSize + 100)
	tab, path := create(t, size)
	m := make(model, blocksum.BlockCount(size))
	for step := range 300 {
		switch rnd.IntN(6) {
		case 0:
			size = rnd.Int64N(8 * blocksum.RangeBlocks * blocksum.BlockSize)
			ok(t, tab.Resize(size))
			n := blocksum.BlockCount(size)
			if n < int64(len(m)) {
				m = m[:n]
			}
			m = append(m, make(model, n-int64(len(m)))...)
		case 1, 2:
			if len(m) == 0 {
				continue
			}
			b, h := rnd.IntN(len(m)), rnd.Uint64N(3)
			ok(t, tab.Set(int64(b), h))
			m[b] = h
			if got := must(tab.Get(int64(b))); got != h {
				t.Fatalf("Get gives %x after Set of %x", got, h)
			}
		case 3, 4:
			if len(m) == 0 {
				continue
			}
			r := rnd.Int64N(tab.Ranges())
			part := m[r*blocksum.RangeBlocks:]
			part = part[:min(len(part), blocksum.RangeBlocks)]
			fill := rnd.IntN(2)
			for i := range part {
				part[i] = rnd.Uint64() * uint64(fill)
			}
			ok(t, tab.WriteRange(r, part))
		case 5:
			ok(t, tab.Sync())
			ok(t, tab.Close())
			tab = must(blocksum.Open(vfs.OS{}, path, key))
		}
		if step%10 == 0 {
			check(t, tab, m)
		}
	}
	check(t, tab, m)
	ok(t, tab.CopyTo(path+".copy"))
	c := must(blocksum.Open(vfs.OS{}, path+".copy", key))
	check(t, c, m)
	if c.Size() != size {
		t.Errorf("the copy's size is %d, want %d", c.Size(), size)
	}
	ok(t, tab.Close())
	ok(t, c.Close())
}

func TestSparse(t *testing.T) {
	t.Parallel()
	tab, path := create(t, 1<<40) // the table would be 2 GiB
	ok(t, tab.Set(1<<27, 5))
	ok(t, tab.Set(3, 0))
	buf := make([]uint64, blocksum.RangeBlocks)
	buf[1] = 9
	ok(t, tab.WriteRange(1000, buf))
	buf[1] = 0
	ok(t, tab.WriteRange(1000, buf))
	ok(t, tab.WriteRange(1001, buf))
	if s := must(tab.Sum()); s != 5 {
		t.Errorf("sum %d, want 5", s)
	}
	ok(t, tab.CopyTo(path+".copy"))
	for _, p := range []string{path, path + ".copy"} {
		if n := allocated(t, p); n > 64<<10 {
			t.Errorf("%s takes %d bytes", p, n)
		}
	}
}

func TestConcurrentDisjointRanges(t *testing.T) {
	t.Parallel()
	const workers = 8
	tab, _ := create(t, workers*4*blocksum.RangeBlocks*blocksum.BlockSize)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			buf := make([]uint64, blocksum.RangeBlocks)
			for r := int64(w); r < tab.Ranges(); r += workers {
				for i := range buf {
					buf[i] = uint64(r)
				}
				if err := tab.WriteRange(r, buf); err != nil {
					t.Error(err)
				}
				if _, err := tab.ReadRange(r, buf); err != nil || buf[7] != uint64(r) {
					t.Errorf("range %d reads %d, %v", r, buf[7], err)
				}
				if _, err := tab.Sum(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	const n = workers * 4
	if s := must(tab.Sum()); s != n*(n-1)/2*blocksum.RangeBlocks {
		t.Errorf("sum %d", s)
	}
}

func TestOutOfRange(t *testing.T) {
	t.Parallel()
	tab, path := create(t, 3*blocksum.BlockSize)
	buf := make([]uint64, blocksum.RangeBlocks)
	_, readErr := tab.ReadRange(1, buf)
	_, shortErr := tab.ReadRange(0, buf[:2])
	_, getErr := tab.Get(3)
	_, sumErr := tab.RangeSums(2, 1)
	_, countErr := tab.RangeSums(0, blocksum.MaxRangeSums+1)
	_, createErr := blocksum.Create(vfs.OS{}, path+"2", key, blocksum.MaxSize+1)
	for name, err := range map[string]error{
		"read": readErr, "room": shortErr, "get": getErr, "sums": sumErr, "count": countErr, "create": createErr,
		"write": tab.WriteRange(-1, buf), "write length": tab.WriteRange(0, buf[:2]), "set": tab.Set(3, 1),
		"set zero": tab.Set(-1, 0), "resize": tab.Resize(-1), "resize up": tab.Resize(blocksum.MaxSize + 1),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := os.Stat(path + "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a refused Create left a file")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	tab, path := create(t, 100*blocksum.BlockSize)
	ok(t, tab.Close())
	good := must(os.ReadFile(path))
	le := binary.LittleEndian
	edit := func(f func(b []byte)) []byte {
		b := append([]byte(nil), good...)
		f(b)
		le.PutUint32(b[48:], crc(b[:48]))
		return b
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":        {nil, "at byte 0: the file ends in its header"},
		"short header": {good[:4095], "at byte 4095: the file ends in its header"},
		"short table":  {good[:len(good)-3], "the file is 3 bytes short"},
		"magic":        {edit(func(b []byte) { b[0] = 'X' }), "at byte 0: not a block table"},
		"version":      {edit(func(b []byte) { b[8] = 2 }), "at byte 8: format version 2 is not known"},
		"must flag":    {edit(func(b []byte) { b[12] = 4 }), "at byte 12: unknown must flag 0x4"},
		"block size":   {edit(func(b []byte) { b[21] = 1 }), "at byte 20: block size 256"},
		"key":          {edit(func(b []byte) { b[24]++ }), "at byte 24: it belongs to a disk with another key"},
		"size":         {edit(func(b []byte) { b[39] = 0x80 }), "at byte 32: disk size"},
		"huge size":    {edit(func(b []byte) { b[38] = 0x80 }), "at byte 32: disk size"},
		"blocks":       {edit(func(b []byte) { b[40]++ }), "at byte 40: 101 blocks"},
		"crc":          {func() []byte { b := edit(func([]byte) {}); b[48]++; return b }(), "at byte 48: header checksum"},
	} {
		p := filepath.Join(filepath.Dir(path), name)
		ok(t, os.WriteFile(p, c.data, 0o600))
		_, err := blocksum.Open(vfs.OS{}, p, key)
		want := fault.Corrupt
		if slices.Contains([]string{"version", "must flag", "block size"}, name) {
			want = fault.Refused // a newer program wrote it
		}
		if !fault.Is(err, want) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v, want %s, %q and the file's name", name, err, want, c.want)
		}
		if fault.Hint(err) == "" {
			t.Errorf("%s: no hint", name)
		}
		if string(must(os.ReadFile(p))) != string(c.data) {
			t.Errorf("%s: a refused file was changed", name)
		}
	}
	p := filepath.Join(filepath.Dir(path), "may")
	ok(t, os.WriteFile(p, edit(func(b []byte) { b[16] = 0x80 }), 0o600))
	tab, err := blocksum.Open(vfs.OS{}, p, key)
	ok(t, err)
	ok(t, tab.Resize(50*blocksum.BlockSize))
	ok(t, tab.Close())
	if b := must(os.ReadFile(p)); b[16] != 0x80 {
		t.Error("an unknown may flag was not kept")
	}
	if _, err := blocksum.Open(vfs.OS{}, path+".missing", key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// A crash between the two steps of Resize leaves the file longer than the
// header says; what lies behind must not come back on growth.
func TestCrashInResize(t *testing.T) {
	t.Parallel()
	tab, path := create(t, 2*blocksum.BlockSize)
	ok(t, tab.Set(1, 7))
	ok(t, tab.Close())
	b := append(must(os.ReadFile(path)), 1, 2, 3, 4, 5, 6, 7, 8, 9)
	ok(t, os.WriteFile(path, b, 0o600))
	tab = must(blocksum.Open(vfs.OS{}, path, key))
	ok(t, tab.Resize(10*blocksum.BlockSize))
	check(t, tab, model{1: 7, 9: 0})
	ok(t, tab.Close())
}

// table_v1.golden is a file as version 1 wrote it: it stays readable, and the
// same steps still write the same bytes.
func TestGolden(t *testing.T) {
	t.Parallel()
	tab, path := create(t, 5*blocksum.BlockSize+17)
	for b, h := range []uint64{1: 0x0102030405060708, 4: 0xffffffffffffffff, 5: 42} {
		ok(t, tab.Set(int64(b), h))
	}
	ok(t, tab.Close())
	const golden = "testdata/table_v1.golden"
	if os.Getenv("DRRUN_UPDATE") != "" {
		ok(t, os.WriteFile(golden, must(os.ReadFile(path)), 0o600))
	}
	want := must(os.ReadFile(golden))
	if string(must(os.ReadFile(path))) != string(want) {
		t.Error("the bytes written differ from version 1")
	}
	copied := filepath.Join(t.TempDir(), "g")
	ok(t, os.WriteFile(copied, want, 0o600))
	tab = must(blocksum.Open(vfs.OS{}, copied, key))
	check(t, tab, model{1: 0x0102030405060708, 4: 0xffffffffffffffff, 5: 42})
	if tab.Size() != 5*blocksum.BlockSize+17 {
		t.Errorf("size %d", tab.Size())
	}
	ok(t, tab.Close())
}

func FuzzOpen(f *testing.F) {
	f.Add(must(os.ReadFile("testdata/table_v1.golden")))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "t")
		ok(t, os.WriteFile(path, data, 0o600))
		tab, err := blocksum.Open(vfs.OS{}, path, key)
		if err != nil {
			if !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Refused) {
				t.Fatalf("neither corrupt nor refused: %v", err)
			}
			return
		}
		defer tab.Close()
		if tab.Blocks()*8+4096 > int64(len(data)) {
			t.Fatalf("%d blocks in %d bytes", tab.Blocks(), len(data))
		}
		if _, err := tab.Sum(); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	page := make([]byte, blocksum.BlockSize)
	for name, last := range map[string]byte{"data": 1, "zero": 0} {
		b.Run(name, func(b *testing.B) {
			p := append([]byte(nil), page...)
			p[0] = last
			b.SetBytes(blocksum.BlockSize)
			b.ReportAllocs()
			for i := range b.N {
				blocksum.Hash(key, int64(i), p)
			}
		})
	}
}

func BenchmarkSum(b *testing.B) {
	path := filepath.Join(b.TempDir(), "t")
	const size = 4 << 30
	tab := must(blocksum.Create(vfs.OS{}, path, key, size))
	buf := make([]uint64, blocksum.RangeBlocks)
	for i := range buf {
		buf[i] = uint64(i)
	}
	for r := range tab.Ranges() {
		if err := tab.WriteRange(r, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(size)
	for b.Loop() {
		must(tab.Sum())
	}
}
