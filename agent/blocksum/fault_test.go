package blocksum_test

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/vfs/faultfs"
)

// Create and CopyTo leave nothing behind when they cannot finish.
func TestFailedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	for n := 1; n < 100; n++ {
		f, disk := onDisk()
		f.Fail(faultfs.Rule{Nth: n})
		tab, err := blocksum.Create(f, "/t", key, 100*blocksum.BlockSize)
		want := 0
		if err == nil {
			want = 1
			f.Mend()
			f.Fail(faultfs.Rule{Nth: n})
			if err = tab.CopyTo("/t2"); err == nil {
				return
			}
			ok(t, tab.Close())
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("operation %d: %v", n, err)
		}
		if got := must(disk.ReadDir("/")); len(got) != want {
			t.Fatalf("operation %d (%s) leaves %v", n, f.Failed(), got)
		}
	}
	t.Fatal("never came to the end")
}

// onDisk is a disk in memory, and it with faults.
func onDisk() (*faultfs.FS, *faultfs.Disk) {
	disk := faultfs.New()
	return faultfs.Over(disk), disk
}

// Wherever a Resize breaks off, the table opens again at the old or the new
// size, without a hash changed, and grows with zeros; after a power cut too.
func TestResizeBreaksOff(t *testing.T) {
	t.Parallel()
	const was = 1000
	for _, size := range []int64{400, 3000} {
		for _, power := range []bool{false, true} {
			for n := 1; n < 6; n++ {
				f, disk := onDisk()
				tab := must(blocksum.Create(f, "/t", key, was*blocksum.BlockSize))
				for b := range int64(was) {
					ok(t, tab.Set(b, uint64(b+1)))
				}
				ok(t, errors.Join(tab.Sync(), disk.SyncDir("/")))
				f.Fail(faultfs.Rule{Nth: n, Times: -1})
				err := tab.Resize(size * blocksum.BlockSize)
				if (err == nil) != (n > 3) {
					t.Fatalf("resize with %d operations: %v", n-1, err)
				}
				ok(t, tab.Close())
				if power {
					disk = disk.Cut(rand.New(rand.NewPCG(uint64(n), uint64(size))))
				}
				tab = must(blocksum.Open(disk, "/t", key))
				got := tab.Blocks()
				if got != was && got != size || err == nil && got != size {
					t.Fatalf("%d blocks after %d operations of a resize to %d", got, n-1, size)
				}
				ok(t, tab.Resize(5000*blocksum.BlockSize))
				m := make(model, 5000)
				for b := range min(got, was) {
					m[b] = uint64(b + 1)
				}
				check(t, tab, m)
				ok(t, tab.Close())
			}
		}
	}
}
