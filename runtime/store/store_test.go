package store_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/runtime/store/storetest"
)

var update = flag.Bool("update", false, "write the golden files anew (never for an old version)")

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) store.Store { return store.NewMemory() })
}

func TestBolt(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) store.Store { return openBolt(t, t.TempDir()) })
}

func openBolt(t *testing.T, dir string) *store.Bolt {
	t.Helper()
	b, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // closed again by the tests that look at its error
	return b
}

func TestReopenKeepsAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openBolt(t, dir)
	rev, err := store.Put(t.Context(), b, "k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openBolt(t, dir)
	kv, err := b.Get(t.Context(), "k")
	if err != nil || string(kv.Value) != "v" || kv.ModRev != rev {
		t.Fatalf("got %+v, %v", kv, err)
	}
	next, err := store.Put(t.Context(), b, "k", []byte("w"))
	if err != nil || next != rev+1 {
		t.Fatalf("revision %d, %v, want %d", next, err, rev+1)
	}
	for _, err := range b.Watch(t.Context(), "", rev) {
		if err == nil || !strings.Contains(err.Error(), "list again") {
			t.Fatalf("watch from before the reopen: %v, want ErrCompacted", err)
		}
	}
}

func TestLockedFolderNamesHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openBolt(t, dir)
	_, err := store.OpenBolt(vfs.OS{}, dir)
	if !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) || fault.Hint(err) == "" {
		t.Fatalf("second open: %v (hint %q)", err, fault.Hint(err))
	}
}

// fill makes a state with some pages of content and closes it.
func fill(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	b := openBolt(t, dir)
	for i := range 40 {
		if _, err := store.Put(t.Context(), b, fmt.Sprintf("key/%02d", i), bytes.Repeat([]byte{byte(i + 1)}, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, store.FileName)
}

func TestDamageIsCorrupt(t *testing.T) {
	t.Parallel()
	damage := map[string]func([]byte) []byte{
		"empty file":    func([]byte) []byte { return nil },
		"text":          func([]byte) []byte { return []byte("this is not a state file\n") },
		"truncated":     func(b []byte) []byte { return b[:len(b)/2] },
		"zeroed start":  func(b []byte) []byte { return append(make([]byte, 8192), b[8192:]...) },
		"one bit":       func(b []byte) []byte { b[bytes.LastIndex(b, bytes.Repeat([]byte{9}, 500))+3] ^= 1; return b },
		"zeroed middle": func(b []byte) []byte { clear(b[8192:]); return b },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, file := fill(t)
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			raw = f(raw)
			if err := os.WriteFile(file, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = store.OpenBolt(vfs.OS{}, dir)
			if !fault.Is(err, fault.Corrupt) || fault.ExitCode(err) != fault.ExitCorrupt || fault.Hint(err) == "" {
				t.Fatalf("open: %v (kind %v), want corrupt with a hint", err, fault.KindOf(err))
			}
			after, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(raw, after) {
				t.Fatalf("the damaged file was changed (%v)", err)
			}
		})
	}
}

func TestNewerFormatIsRefusedByName(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header, want string
		kind         fault.Kind
	}{
		"version": {`{"format":"drrun-state","version":2}`, "version is 2", fault.Refused},
		"must":    {`{"format":"drrun-state","version":1,"must":["sealed-values"]}`, "sealed-values", fault.Refused},
		"other":   {`{"format":"something-else","version":1}`, "not a drrun state", fault.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, file := fill(t)
			setHeader(t, file, c.header)
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = store.OpenBolt(vfs.OS{}, dir)
			if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || fault.Hint(err) == "" {
				t.Fatalf("open: %v, want kind %v naming %q", err, c.kind, c.want)
			}
			after, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(before, after) {
				t.Fatalf("the file was changed (%v)", err)
			}
		})
	}
	dir, file := fill(t)
	setHeader(t, file, `{"format":"drrun-state","version":1,"may":["statistics"]}`)
	openBolt(t, dir)
}

func setHeader(t *testing.T, file, head string) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("header"), []byte(head)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBackupOpens(t *testing.T) {
	t.Parallel()
	b := openBolt(t, t.TempDir())
	if _, err := store.Put(t.Context(), b, "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := b.Backup(&buf); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, store.FileName), buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	kv, err := openBolt(t, dir).Get(t.Context(), "k")
	if err != nil || string(kv.Value) != "v" {
		t.Fatalf("got %+v, %v", kv, err)
	}
}

// TestGoldenV1 opens a file of format version 1. It stays readable forever.
func TestGoldenV1(t *testing.T) {
	t.Parallel()
	golden := filepath.Join("testdata", "state-v1.db")
	if *update {
		dir := t.TempDir()
		b := openBolt(t, dir)
		for _, k := range []string{"estate/current", "run/r1/j/0000000000000001"} {
			if _, err := store.Put(t.Context(), b, k, []byte("value of "+k)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		copyFile(t, filepath.Join(dir, store.FileName), golden)
	}
	dir := t.TempDir()
	copyFile(t, golden, filepath.Join(dir, store.FileName))
	b := openBolt(t, dir)
	n := 0
	for kv, err := range b.List(t.Context(), "") {
		n++
		if err != nil || string(kv.Value) != "value of "+kv.Key || kv.ModRev != int64(n) {
			t.Errorf("got %+v, %v", kv, err)
		}
	}
	if n != 2 {
		t.Errorf("%d keys, want 2", n)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHalfMadeFileIsMadeAnew: a process that died while it made the state left
// the file under another name.
func TestHalfMadeFileIsMadeAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tmp := filepath.Join(dir, store.FileName+vfs.TempSuffix)
	if err := os.WriteFile(tmp, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openBolt(t, dir)
	if _, err := store.Put(t.Context(), b, "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tmp); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", tmp, err)
	}
}
