package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

// fromZero is a step from a version 0 that never was: it kept values without
// their checksum and revisions, in a bucket of its own.
func fromZero(tx *bbolt.Tx) error {
	kvs, err := tx.CreateBucket(bucketKV)
	if err != nil {
		return err
	}
	err = tx.Bucket([]byte("plain")).ForEach(func(k, v []byte) error {
		return kvs.Put(k, encodeValue(KV{Key: string(k), Value: v, CreateRev: 1, ModRev: 1}))
	})
	return errors.Join(err, tx.DeleteBucket([]byte("plain")))
}

// zero makes a state folder of version 0.
func zero(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	file = filepath.Join(dir, FileName)
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		plain, err := tx.CreateBucket([]byte("plain"))
		if err != nil {
			return err
		}
		return errors.Join(plain.Put([]byte("estate"), []byte("acme")), meta.Put(keyRev, []byte{0, 0, 0, 0, 0, 0, 0, 1}),
			meta.Put(keyHeader, []byte(`{"format":"drrun-state","version":0,"may":["hints"]}`)))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

func isZero(t *testing.T, file string) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_ = db.View(func(tx *bbolt.Tx) error {
		head := string(tx.Bucket(bucketMeta).Get(keyHeader))
		if !strings.Contains(head, `"version":0`) || tx.Bucket(bucketKV) != nil || string(tx.Bucket([]byte("plain")).Get([]byte("estate"))) != "acme" {
			t.Errorf("%s is not of version 0 any more: %s", file, head)
		}
		return nil
	})
}

// TestOlderStateIsBroughtUp in one transaction, after a copy: a process that is
// killed between leaves the old file and the copy, and the next one goes on.
//
//nolint:paralleltest // it registers a step
func TestOlderStateIsBroughtUp(t *testing.T) {
	if dir := os.Getenv("DRRUN_TEST_MIGRATE"); dir != "" { // the process to kill
		steps[0] = func(tx *bbolt.Tx) error {
			return errors.Join(fromZero(tx), syscall.Kill(os.Getpid(), syscall.SIGKILL))
		}
		_, err := OpenBolt(vfs.OS{}, dir)
		t.Fatal(err)
	}
	dir, file := zero(t)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBolt(vfs.OS{}, dir); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "version is 0") || fault.Hint(err) == "" {
		t.Fatalf("without a step: %v", err)
	}
	if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
		t.Fatal("a refused file was touched")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestOlderStateIsBroughtUp$") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), "DRRUN_TEST_MIGRATE="+dir)
	out, err := cmd.CombinedOutput()
	if ee := (*exec.ExitError)(nil); !errors.As(err, &ee) || !ee.Sys().(syscall.WaitStatus).Signaled() { //nolint:errcheck // of this system
		t.Fatalf("the process was not killed: %v\n%s", err, out)
	}
	isZero(t, file)
	isZero(t, file+".v0")
	defer delete(steps, 0)
	steps[0] = func(*bbolt.Tx) error { return errors.New("no room") }
	if _, err := OpenBolt(vfs.OS{}, dir); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Fatalf("a step that fails: %v", err)
	}
	isZero(t, file)
	steps[0] = fromZero
	b, err := OpenBolt(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := b.Get(context.Background(), "estate")
	if err != nil || string(kv.Value) != "acme" || kv.ModRev != 1 {
		t.Errorf("got %+v, %v", kv, err)
	}
	if rev, ok, err := b.Txn(context.Background(), Txn{Then: []Op{{Key: "more", Value: []byte("x")}}}); err != nil || !ok || rev != 2 {
		t.Errorf("a further transaction: %d, %v, %v", rev, ok, err)
	}
	_ = b.db.View(func(tx *bbolt.Tx) error {
		if head := string(tx.Bucket(bucketMeta).Get(keyHeader)); head != `{"format":"drrun-state","version":1,"may":["hints"]}` {
			t.Errorf("header %s", head)
		}
		return nil
	})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	isZero(t, file+".v0")
}
