// Package tracker finds out what changed on the disks of a machine since its
// peer last had them all: the one interface of change trackers, and the scan
// tracker, which needs nothing from the machine and heals every other one.
//
// It is not for keeping what it finds: it reads disks and block tables and
// writes neither. What a run of changed bytes becomes is its caller's business
// (agent/source).
//
// Rule for every tracker: unknown means changed. A tracker that may have
// missed a write says so by ErrLost, and the caller scans instead.
//
// Threading: a Tracker serves many machines at once. A Cut belongs to one
// cycle; Changed calls its Visitor from several goroutines at a time.
package tracker

import (
	"context"
	"errors"

	"github.com/drrun/drrun/internal/ident"
)

// ErrLost says that a tracker no longer knows what changed since the point it
// was asked about: the cycle has to be a scan.
var ErrLost = errors.New("tracker lost its position")

// Disk is one disk to track.
type Disk struct {
	Name string
	Path string // file or block device
	Key  uint64 // seeds its block hashes
}

// Tracker tracks changes. Positions are kept per machine by the point since
// which changes are asked for.
type Tracker interface {
	// Begin makes the cut: it fixes size and position of all disks of the
	// machine. Ranges are those that changed since the named point (zero:
	// since ever). The machine is held still by the caller where it has to
	// be. Exactly one End follows unless Begin fails.
	//
	// fault.Failed with machine, disk and path: a disk cannot be opened.
	// ErrLost: this tracker cannot say; scan.
	Begin(ctx context.Context, machine string, disks []Disk, since ident.PointID) (Cut, error)
}

// Cut is one state of all disks of a machine that can be read until End.
type Cut interface {
	// Size returns the size of a disk at the cut, in bytes; disk counts as
	// in Begin.
	Size(disk int) int64
	// Changed visits what differs between the disk and base, each block once
	// and in no order.
	Changed(ctx context.Context, disk int, base Base, v Visitor) (Stats, error)
	// End lets go of the cut. acknowledged says that the peer has it: a
	// tracker with positions moves on to it, else it gives them back.
	End(acknowledged bool) error
}

// Base is the block table the disk is compared with (*blocksum.Table).
// Blocks past its end count as zero.
type Base interface {
	Blocks() int64
	// ReadRange fills dst with the hashes of one range of blocksum.RangeBlocks
	// blocks and returns their number.
	ReadRange(r int64, dst []uint64) (int, error)
}

// Visitor takes what a cut finds. Both methods are called from several
// goroutines at a time.
type Visitor interface {
	// Run is called for each run of changed blocks; its Data is valid until
	// Run returns. An error ends the scan and is returned by Changed.
	Run(r Run) error
	// Seen is told how many more bytes of the disk are done.
	Seen(n int64)
}

// Run is a run of changed blocks.
type Run struct {
	Offset int64  // a multiple of blocksum.BlockSize
	Length int64  // bytes; only the last run of a disk may end inside a block
	Data   []byte // the content, Length bytes; nil: all zero
}

// Stats sums up one disk of a cut.
type Stats struct {
	Read    int64 // bytes read from the disk
	Changed int64 // bytes in runs
	Zero    int64 // of them in runs of zeros
	// Sum is what the disk's whole-disk sum grew by, modulo 2^64: new hashes
	// minus old ones, those of blocks that a shrunk disk lost included.
	Sum uint64
}
