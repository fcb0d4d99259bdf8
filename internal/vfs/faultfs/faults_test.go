package faultfs_test

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/internal/vfs/faultfs"
)

func TestRules(t *testing.T) {
	t.Parallel()
	disk := faultfs.New()
	f := faultfs.Over(disk)
	f.Fail(faultfs.Rule{Op: faultfs.Write, Path: "log", Nth: 2, Times: 2, Err: syscall.ENOSPC, Short: true})
	log, other := create(t, f, "/log", "1234"), create(t, f, "/other", "x")
	for i, want := range []error{syscall.ENOSPC, syscall.ENOSPC, nil} {
		n, err := log.WriteAt([]byte("abcd"), 4)
		if !errors.Is(err, want) || want != nil && n != 2 {
			t.Errorf("write %d: %d, %v", i, n, err)
		}
		if _, err := other.WriteAt([]byte("y"), 0); err != nil {
			t.Error(err)
		}
		if i == 0 && read(t, f, "/log") != "1234ab" {
			t.Errorf("a short write left %q", read(t, f, "/log"))
		}
	}
	f.Mend()
	f.Fail(faultfs.Rule{Times: -1})
	for range 2 {
		is(t, f.Remove("/log"), syscall.EIO)
	}
	if _, err := f.Stat("/log"); err != nil {
		t.Error("a look failed by a rule for changes:", err)
	}
	if f.Failed() != "remove /log" {
		t.Error(f.Failed())
	}
}

// TestFailedSync: what a failed sync did not write, no later sync writes.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	disk := faultfs.New()
	f := faultfs.Over(disk)
	file := create(t, f, "/f", "old")
	must(t, errors.Join(file.Sync(), f.SyncDir("/")))
	_, err := file.WriteAt([]byte("new"), 0)
	must(t, err)
	f.Fail(faultfs.Rule{Op: faultfs.Sync})
	is(t, file.Sync(), syscall.EIO)
	must(t, file.Sync())
	if got := read(t, disk.Clone().Cut(rand.New(rand.NewPCG(1, 1))), "/f"); got != "old" {
		t.Errorf("after a failed sync and one that worked: %q", got)
	}
	_, err = file.WriteAt([]byte("NEW"), 0)
	must(t, err)
	must(t, file.Sync())
	if got := read(t, disk.Cut(nil), "/f"); got != "NEW" {
		t.Errorf("written again: %q", got)
	}
}

// TestKillAnywhere kills a replacement of a file at each of its changes and
// cuts the power: the old content stays or the new one is there, whole.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		for seed := range uint64(8) {
			disk := faultfs.New()
			must(t, vfs.WriteFile(disk, "/f", []byte("old content"), 0o600))
			f := faultfs.Over(disk)
			f.KillAt(n)
			err := vfs.WriteFile(f, "/f", []byte("new"), 0o600)
			disk = disk.Cut(rand.New(rand.NewPCG(seed, uint64(n))))
			got := read(t, disk, "/f")
			if err == nil && n > f.Changes() {
				if n < 4 || got != "new" {
					t.Fatalf("done after %d changes, and %q", f.Changes(), got)
				}
				return
			}
			is(t, err, faultfs.ErrKilled)
			if got != "old content" || !f.Killed() {
				t.Fatalf("killed at change %d: %q", n, got)
			}
		}
	}
}

// TestHook: a hook sees each operation first and may end the process there.
func TestHook(t *testing.T) {
	t.Parallel()
	disk := faultfs.New()
	f := faultfs.Over(disk)
	var seen []string
	f.SetHook(func(op faultfs.Op, path string) error {
		seen = append(seen, string(op)+" "+path)
		if op == faultfs.Rename {
			f.Kill()
		}
		return nil
	})
	is(t, vfs.WriteFile(f, "/f", []byte("x"), 0o600), faultfs.ErrKilled)
	want := []string{"create /f.tmp", "write /f.tmp", "sync /f.tmp", "close /f.tmp", "rename /f"}
	if len(seen) < len(want) {
		t.Fatalf("seen %v", seen)
	}
	for i, w := range want {
		if seen[i] != w {
			t.Errorf("operation %d is %s, want %s", i, seen[i], w)
		}
	}
	if read(t, disk, "/f") != "-" || read(t, disk, "/f.tmp") != "x" {
		t.Error("the operation at which it was killed was done")
	}
	if _, err := vfs.ReadFile(faultfs.Over(disk), "/f.tmp"); err != nil {
		t.Error("the next process:", err)
	}
}

// TestLockEndsWithItsProcess: the next process takes the lock of a killed one,
// and its release takes nothing away from the next.
func TestLockEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	disk := faultfs.New()
	a, b := faultfs.Over(disk), faultfs.Over(disk)
	release, err := a.Lock("/lock")
	must(t, err)
	_, err = b.Lock("/lock")
	is(t, err, vfs.ErrLocked)
	a.Kill()
	_, err = b.Lock("/lock")
	must(t, err)
	must(t, release())
	_, err = faultfs.Over(disk).Lock("/lock")
	is(t, err, vfs.ErrLocked)
}

// TestLockIsGivenBack: a release gives the lock to the next, once.
func TestLockIsGivenBack(t *testing.T) {
	t.Parallel()
	disk := faultfs.New()
	release, err := faultfs.Over(disk).Lock("/lock")
	must(t, err)
	must(t, release())
	_, err = faultfs.Over(disk).Lock("/lock")
	must(t, err)
	must(t, release())
	_, err = faultfs.Over(disk).Lock("/lock")
	is(t, err, vfs.ErrLocked)
}
