package compose

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime/copies"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/transport/pki"
)

// madeState is a state folder with a CA and one value, and a backup of it.
func madeState(t *testing.T) (dir string, file []byte) {
	t.Helper()
	dir = t.TempDir()
	if _, err := pki.CreateCA(vfs.OS{}, filepath.Join(dir, "ca"), "acme", clock.Real{}); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), s, "runs/erp-1", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Backup(&b); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err = EncodeBackup(b.Bytes(), dir, "correct horse", "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return dir, file
}

// TestBackupAndBack: what comes back is what was there, marked; a backup that is
// newer, damaged or cut off at any byte changes nothing.
func TestBackupAndBack(t *testing.T) {
	t.Parallel()
	was, file := madeState(t)
	dir := filepath.Join(t.TempDir(), "state")
	restore := func(file []byte) error {
		_, err := Restore(t.Context(), file, dir, "correct horse", false, clock.Real{})
		return err
	}
	for n := 0; n < len(file); n += 97 {
		if err := restore(file[:n]); !fault.Is(err, fault.Corrupt) {
			t.Fatalf("cut off at byte %d: %v", n, err)
		}
		bad := bytes.Clone(file)
		bad[n] ^= 4
		if err := restore(bad); !fault.Is(err, fault.Corrupt) {
			t.Fatalf("damaged at byte %d: %v", n, err)
		}
	}
	for change, want := range map[string]string{`"version":2,"must":[]`: "version 2", `"version":1,"must":["x"]`: `"x"`} {
		newer := bytes.Replace(file[:len(file)-sha256.Size], []byte(`"version":1,"must":[]`), []byte(change), 1)
		newer[len(backupMagic)] += byte(len(change) - len(`"version":1,"must":[]`))
		sum := sha256.Sum256(newer)
		if err := restore(append(newer, sum[:]...)); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("a newer backup: %v", err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a refused backup made the state folder")
	}

	if err := restore(file); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(filepath.Join(was, "ca", "ca.key"))
	b, err2 := os.ReadFile(filepath.Join(dir, "ca", "ca.key"))
	if err != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Errorf("the CA's key is another one: %v, %v", err, err2)
	}
	s, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := s.Get(t.Context(), "runs/erp-1")
	_, marked, err2 := copies.Marked(t.Context(), s)
	if err != nil || string(kv.Value) != `{}` || !marked || err2 != nil {
		t.Errorf("restored %q, marked %v: %v, %v", kv.Value, marked, err, err2)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	if err := restore(file); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "with 1 run and a certificate authority") {
		t.Errorf("a folder that is not empty: %v", err)
	}
	res, err := Restore(t.Context(), file, dir, "correct horse", true, clock.Real{})
	if err != nil || res.Runs != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, name := range []string{"ca/ca.key", store.FileName} {
		if _, err := os.Stat(filepath.Join(res.Replaced, name)); err != nil {
			t.Errorf("what was there before is gone: %v", err)
		}
	}
}

// TestRestoreTwiceInASecond: each state that made way is kept by itself.
func TestRestoreTwiceInASecond(t *testing.T) {
	t.Parallel()
	dir, file := madeState(t)
	first, err := os.ReadFile(filepath.Join(dir, store.FileName))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	clk := clock.Func(func() time.Time { return now })
	var kept []string
	for range 3 {
		res, err := Restore(t.Context(), file, dir, "correct horse", true, clk)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, res.Replaced)
	}
	if got, err := os.ReadFile(filepath.Join(kept[0], store.FileName)); err != nil || !bytes.Equal(got, first) {
		t.Errorf("what was there first is not in %s: %v", kept[0], err)
	}
	for _, d := range kept {
		if _, err := os.Stat(filepath.Join(d, "ca/ca.key")); err != nil {
			t.Errorf("kept in %v: %v", kept, err)
		}
	}
}

func FuzzBackup(f *testing.F) {
	file, err := encodeBackup(backupHeader{Program: "test"}, map[string][]byte{sectionState: []byte("state"), sectionCert: []byte("cert"), sectionKey: []byte("key")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file[:len(file)-sha256.Size])
	f.Add([]byte("drrunBK1\xff\xff\xff\x7f{}"))
	f.Add([]byte(`drrunBK1` + "\x3d\x00\x00\x00" + `{"version":1,"sections":[{"name":"state.db","size":-1}]}     `))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		h, contents, err := decodeBackup(append(bytes.Clone(body), sum[:]...))
		if err != nil {
			return
		}
		total := 0
		for _, s := range h.Sections {
			total += len(contents[s.Name])
		}
		if total > len(body) {
			t.Errorf("%q holds %d bytes", body, total)
		}
	})
}
