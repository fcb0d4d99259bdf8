package source

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// sink is a target that takes everything and keeps the manifest only.
type sink struct{ tip *recovery.Point }

func (*sink) Codecs() []string { return hrl.Codecs() }

func (s *sink) Tip(context.Context, command.TipRequest) (command.TipResult, error) {
	res := command.TipResult{Authority: auth(1), Tip: s.tip, NextSeq: 1}
	if s.tip != nil {
		res.NextSeq = s.tip.Seq + 1
	}
	return res, nil
}

func (s *sink) Put(_ context.Context, h command.SegmentHeader, src io.ReaderAt, _ func(int64)) error {
	_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{io.NewSectionReader(src, 0, h.Size)}, make([]byte, 64<<10))
	return err
}

func (s *sink) Accept(_ context.Context, in command.AcceptRequest) (command.AcceptResult, error) {
	s.tip = &in.Point
	return command.AcceptResult{Point: in.Point}, nil
}

func (s *sink) Ranges(context.Context, command.RangesRequest) (command.RangesResult, error) {
	return command.RangesResult{}, nil
}

func (s *sink) Blocks(context.Context, command.BlocksRequest) (command.BlocksResult, error) {
	return command.BlocksResult{}, nil
}

// BenchmarkFirstCopy is a first copy and an idle cycle of a disk of random
// content, with all its files synced.
func BenchmarkFirstCopy(b *testing.B) {
	const size = 256 << 20
	dir := b.TempDir()
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, noise(1, size), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		m, err := Open(Config{
			FS: vfs.OS{}, Dir: filepath.Join(dir, ident.NewID().String()), Machine: "db1",
			Disks: []Disk{{Name: "root", ID: ident.NewDiskID(), Key: 1, Path: path}},
			Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler), Guest: &guest{kind: recovery.Crash}, Peer: &sink{},
		})
		if err != nil {
			b.Fatal(err)
		}
		for range 2 {
			if _, err := m.Cycle(b.Context(), CycleOptions{Authority: auth(1)}); err != nil {
				b.Fatal(err)
			}
		}
		if err := m.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}
