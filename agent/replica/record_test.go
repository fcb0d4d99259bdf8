package replica_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

var update = flag.Bool("update", false, "write the golden files anew")

func id(b byte) ident.ID {
	var id ident.ID
	for i := range id {
		id[i] = b
	}
	return id
}

func goldenPoint() recovery.Point {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	return recovery.Point{
		Version: 1, ID: ident.PointID{ID: id(0xa1)}, Seq: 7, Machine: "erp-db", Epoch: 2, From: ident.PointID{ID: id(0xa0)}, Instant: at,
		Kind: recovery.App, Group: "erp", Labels: []string{"before upgrade"}, Held: true, LockedUntil: at.AddDate(0, 1, 0),
		Disks: []recovery.PointDisk{{Name: "data", ID: ident.DiskID{ID: id(0xd1)}, Size: 1 << 30, Sum: 0xfedcba9876543210,
			Log: ident.LogID{ID: id(0xb1)}, Segments: 3, Bytes: 12345678}},
		Config: []byte(`{"cpus":2}`), ClockOffset: time.Second, ClockError: time.Millisecond, Received: at.Add(time.Second),
	}
}

// TestGoldenManifest: manifests of version 1 are read for ever.
func TestGoldenManifest(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "manifest_v1.golden")
	got, err := replica.EncodePoint(goldenPoint())
	must(t, err)
	if *update {
		must(t, os.WriteFile(path, got, 0o600))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	p, err := replica.DecodePoint(path, want)
	must(t, err)
	again, err := replica.EncodePoint(p)
	must(t, err)
	if !bytes.Equal(again, want) {
		t.Errorf("decoded and encoded: %s", again)
	}
}

// TestGoldenState: so is replica.json.
func TestGoldenState(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "replica_v1.golden")
	s := replica.GoldenState(goldenPoint())
	got, err := replica.EncodeState(s)
	must(t, err)
	if *update {
		must(t, os.WriteFile(path, got, 0o600))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	d, err := replica.DecodeState(path, want)
	must(t, err)
	again, err := replica.EncodeState(d)
	must(t, err)
	if !bytes.Equal(again, want) {
		t.Errorf("decoded and encoded: %s", again)
	}
}

func addGolden(f *testing.F, name string) {
	f.Helper()
	p, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add(p[:len(p)/2])
	f.Add(bytes.Replace(p, []byte(`"must":[]`), []byte(`"must":["x"]`), 1))
	f.Add(append(bytes.Clone(p), p...))
}

func FuzzManifest(f *testing.F) {
	addGolden(f, "manifest_v1.golden")
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := replica.DecodePoint("manifest", data)
		if err != nil {
			return
		}
		b, err := replica.EncodePoint(p)
		must(t, err)
		again, err := replica.DecodePoint("manifest", b)
		if err != nil || again.ID != p.ID || again.Seq != p.Seq || len(again.Disks) != len(p.Disks) {
			t.Errorf("%v: %+v", err, again)
		}
	})
}

func FuzzState(f *testing.F) {
	addGolden(f, "replica_v1.golden")
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := replica.DecodeState("replica.json", data)
		if err != nil {
			return
		}
		b, err := replica.EncodeState(s)
		must(t, err)
		if _, err := replica.DecodeState("replica.json", b); err != nil {
			t.Error(err)
		}
	})
}

func FuzzSums(f *testing.F) {
	dir := f.TempDir()
	p, err := os.ReadFile(filepath.Join("testdata", "sums_v1.golden"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add(p[:70])
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "x.sums")
		for _, b := range [][]byte{data, resealSums(data)} {
			must(t, os.WriteFile(path, b, 0o600))
			replica.ReadSums(fastFS{}, path) // must neither panic nor go on for ever
		}
	})
}

// resealSums makes the checksums of a sums file fit its content.
func resealSums(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < 64 {
		return b
	}
	crc := func(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }
	le := binary.LittleEndian
	le.PutUint32(b[12:], crc(b[64:]))
	le.PutUint64(b[48:], uint64(len(b)-64))
	le.PutUint32(b[60:], crc(b[:60]))
	return b
}

// TestSumsThatLie: runs out of order, before the first block that the header
// names, or far out are refused.
func TestSumsThatLie(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(filepath.Join("testdata", "sums_v1.golden"))
	must(t, err)
	le := binary.LittleEndian
	for name, change := range map[string]func(b []byte){
		"header begins later": func(b []byte) { le.PutUint64(b[16:], 3000); le.PutUint64(b[24:], 4000) },
		"out of order":        func(b []byte) { le.PutUint64(b[64+16+16:], 0) },
		"far out":             func(b []byte) { le.PutUint64(b[64:], 1<<62) },
		"unknown kind":        func(b []byte) { le.PutUint32(b[64+12:], 7) },
	} {
		b := bytes.Clone(good)
		change(b)
		path := filepath.Join(tempDir(t), "x.sums")
		must(t, os.WriteFile(path, resealSums(b), 0o600))
		if n, _ := replica.ReadSums(fastFS{}, path); n >= 3+5 {
			t.Errorf("%s: %d blocks are read", name, n)
		}
	}
}

// TestGoldenSums: the hashes beside a segment, version 1.
func TestGoldenSums(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "x.sums")
	must(t, replica.WriteGoldenSums(fastFS{}, path))
	got, err := os.ReadFile(path)
	must(t, err)
	golden := filepath.Join("testdata", "sums_v1.golden")
	if *update {
		must(t, os.WriteFile(golden, got, 0o600))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	blocks, total := replica.ReadSums(fastFS{}, golden)
	if blocks != 3+5 || total != 11+12+13 {
		t.Errorf("%d blocks, sum %d", blocks, total)
	}
}
