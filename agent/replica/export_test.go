package replica

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// SetUndoPart sets the blocks in a part of an undo log.
func SetUndoPart(n int64) { maxUndoBlocks = n }

// SetElapsed puts a monotonic clock in the place of the machine's.
func (m *Machine) SetElapsed(f func() time.Duration) { m.elapsed = f }

// WaitUrgent returns when an urgent operation waits for the work lock.
func (m *Machine) WaitUrgent() {
	for {
		m.work.mu.Lock()
		n := m.work.urgent
		m.work.mu.Unlock()
		if n > 0 {
			return
		}
		runtime.Gosched()
	}
}

// EachChunk reads a batch of logs through a buffer of some blocks.
func EachChunk(fsys vfs.FS, paths []string, size int64, blocks int, fn func(off int64, p []byte) error) error {
	b, err := openBatch(fsys, paths)
	if err != nil {
		return err
	}
	return errors.Join(b.eachChunk(size, make([]byte, blocks*blocksum.BlockSize), fn), b.close())
}

// WriteLayers lays logs over a file of a size.
func WriteLayers(ctx context.Context, fsys vfs.FS, f vfs.File, paths []string, size int64, punch bool) error {
	_, err := layerStep{paths: paths, size: size}.writeOver(ctx, fsys, f, punch, func(int64) {})
	return err
}

// Sealed and Stored are the two parts of Commit.
func (r *Receiver) Sealed() error                    { return r.seal() }
func (r *Receiver) Stored(ctx context.Context) error { return r.m.commitSegment(ctx, r.header, r.path) }

// StateFormat is the format of replica.json.
var StateFormat = &stateFormat

// Encoders and decoders of the durable records.
var (
	DecodeState = decodeState
	DecodePoint = decodePoint
)

// EncodePoint is what is written as a manifest.
func EncodePoint(p recovery.Point) ([]byte, error) { return encodeRecord(formatPoint, p, kept{}) }

// EncodeState is what is written as replica.json.
func EncodeState(s state) ([]byte, error) { return encodeRecord(formatState, s, s.kept) }

// Unknown is what a state holds that no field takes.
func (s state) Unknown() durable.Extra { return s.kept.extra }

// GoldenState has every field of the golden file set.
func GoldenState(p recovery.Point) state {
	return state{
		Machine: "erp-db", Disks: map[string]diskState{"data": {ID: p.Disks[0].ID, Head: "/store/erp-db/data/head.img"}},
		Owned: true, Applied: mark{p.From, 6}, Table: markOf(p), TipAge: time.Second, Hold: true,
		Live:     &live{Run: "run-1", Point: p, Phase: phaseReady, Committed: true, Mode: ModeCopy, Bytes: 4096, Took: time.Minute},
		Tests:    map[string]testView{"drill-1": {Point: p.ID, Phase: phaseReady, Mode: ModeReflink, Bytes: 1, Took: 2}},
		Adopting: &p, Dropping: []string{"/store/erp-db/data/head.img.base"}, Thinning: []mark{{ident.PointID{ID: p.ID.ID}, 3}},
		Clock: p.Instant,
	}
}

// StatesWithFlags are golden states that only a program may take that knows
// their flag.
func StatesWithFlags(p recovery.Point) map[string]state {
	back, over := GoldenState(p), GoldenState(p)
	back.Live.Phase = phaseBack
	over.Live, over.Discarded = nil, &discarded{Tip: over.Applied, Point: true, Begun: true}
	return map[string]state{"overlay-back": back, "discarded-over": over}
}

// WriteGoldenSums writes a small sums file: hashes 11, 12, 13 for blocks 1, 2
// and 9, five zero blocks from 20.
func WriteGoldenSums(fsys vfs.FS, path string) error {
	w, err := newSumsWriter(fsys, path)
	if err != nil {
		return err
	}
	for _, b := range []struct {
		block int64
		h     uint64
	}{{1, 11}, {2, 12}, {9, 13}} {
		if err := w.data(b.block, b.h); err != nil {
			return err
		}
	}
	if err := w.zero(20, 5); err != nil {
		return err
	}
	_, err = w.finish(func(string, segment) (int64, int64, error) { return 4096, 8192, nil })
	return err
}

// ReadSums counts the blocks of a sums file and adds their hashes, up to some
// ranges.
func ReadSums(fsys vfs.FS, path string) (blocks int, total uint64) {
	s, err := readSumsHeader(fsys, path)
	if err != nil {
		return 0, 0
	}
	ranges := 0
	_ = eachRange(fsys, []sumsFile{{path: path, seg: s}}, func(r *blockRange) error {
		for i, set := range r.set {
			if set {
				blocks++
				total += r.hashes[i]
			}
		}
		if ranges++; ranges > 100 {
			return errDone
		}
		return nil
	})
	return blocks, total
}

var errDone = errHasData
