package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
)

func TestUpload(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	size := int64(len(content))
	full := fault.Errorf(fault.NoSpace, "store full").WithHint("add a disk")
	for _, tc := range []struct {
		name     string
		sink     *sink // nil: have it already
		refuse   error
		src      io.ReaderAt
		kind     fault.Kind // 0: it succeeds
		text     string
		ack      string
		from     int64 // first progress; -1: no byte is asked for
		commits  int32
		aborts   int32
		received int
	}{
		{name: "whole", sink: &sink{}, ack: "stored", commits: 1, received: len(content)},
		{name: "resumed", sink: &sink{offset: 1000}, ack: "stored", from: 1000, commits: 1, received: len(content) - 1000},
		{name: "all held", sink: &sink{offset: size}, ack: "stored", from: size, commits: 1},
		{name: "have it already", from: -1},
		{name: "refused", refuse: fault.Errorf(fault.Conflict, "epoch 3 is over"), kind: fault.Conflict, text: "epoch 3 is over", from: -1},
		{name: "longer than the upload", sink: &sink{offset: size + 1}, kind: fault.Conflict, text: "1600001 bytes are held of an upload of 1600000", from: -1, aborts: 1},
		{name: "full at the first byte", sink: &sink{onWrite: func([]byte) error { return full }}, kind: fault.NoSpace, text: "store full", aborts: 1},
		{name: "commit fails", sink: &sink{onCommit: func() error { return full }}, kind: fault.NoSpace, text: "store full", commits: 1, received: len(content)},
		{name: "commit panics", sink: &sink{onCommit: func() error { panic("boom") }}, kind: fault.Internal, text: "put panicked: boom", commits: 1, received: len(content)},
		{name: "write panics", sink: &sink{onWrite: func([]byte) error { panic("boom") }}, kind: fault.Internal, text: "put panicked: boom", aborts: 1},
		{name: "source fails", sink: &sink{}, src: brokenSource{content[:500_000]}, kind: fault.Internal, text: "cannot read what put sends: disk gone", aborts: 1, received: -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := rpc.NewMux()
			rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, text) (rpc.Sink[text], error) {
				if tc.sink == nil {
					return nil, tc.refuse
				}
				return tc.sink, nil
			})
			in(t, m, func(t *testing.T, b *bundle) {
				src := tc.src
				if src == nil {
					src = bytes.NewReader(content)
				}
				first, last := int64(-1), int64(-1)
				progress := func(n int64) {
					if first < 0 {
						first = n
					}
					last = n
				}
				var out text
				err := b.client.Upload(t.Context(), "put", text{}, src, size, progress, &out)
				if tc.kind != 0 {
					wantFault(t, err, tc.kind, tc.text)
					if rpc.OutcomeUnknown(err) {
						t.Error("an answered upload says that its outcome is not known")
					}
				} else if err != nil || out.Text != tc.ack || tc.from >= 0 && last != size {
					t.Errorf("acknowledged with %q at byte %d, %v", out.Text, last, err)
				}
				if first != tc.from {
					t.Errorf("first progress %d, want %d", first, tc.from)
				}
				b.stop() // waits for the handler
				if tc.sink == nil {
					return
				}
				if c, a := tc.sink.committed.Load(), tc.sink.aborted.Load(); c != tc.commits || a != tc.aborts {
					t.Errorf("%d commits and %d aborts, want %d and %d", c, a, tc.commits, tc.aborts)
				}
				if tc.received >= 0 && tc.sink.Len() != tc.received {
					t.Errorf("%d bytes received, want %d", tc.sink.Len(), tc.received)
				}
			})
		})
	}
}

// TestUploadStopsEarly: a receiver that refuses is heard while there is still
// much to send.
func TestUploadStopsEarly(t *testing.T) {
	m := rpc.NewMux()
	s := &sink{onWrite: func([]byte) error { return fault.Errorf(fault.NoSpace, "store full") }}
	rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, text) (rpc.Sink[text], error) { return s, nil })
	in(t, m, func(t *testing.T, b *bundle) {
		const size = 1 << 30
		var sent int64
		err := b.client.Upload(t.Context(), "put", text{}, zeros(size), size, func(n int64) { sent = n }, nil)
		wantFault(t, err, fault.NoSpace, "store full")
		if sent > 64<<20 {
			t.Errorf("%d bytes went out after the refusal", sent)
		}
	})
}

// TestUploadCancelled: a sender that gives up leaves what arrived to the sink.
func TestUploadCancelled(t *testing.T) {
	m := rpc.NewMux()
	s := &sink{}
	rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, text) (rpc.Sink[text], error) { return s, nil })
	in(t, m, func(t *testing.T, b *bundle) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the cycle was stopped")
		err := b.client.Upload(ctx, "put", text{}, zeros(50<<20), 50<<20, func(n int64) {
			if n > 10<<20 {
				cancel(why)
			}
		}, nil)
		wantFault(t, err, fault.Unreachable, "the cycle was stopped")
		b.stop()
		if s.aborted.Load() != 1 || s.committed.Load() != 0 {
			t.Errorf("%d aborts, %d commits", s.aborted.Load(), s.committed.Load())
		}
	})
}

type brokenSource struct{ b []byte }

func (s brokenSource) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(s.b)) {
		return 0, errors.New("disk gone")
	}
	return copy(p, s.b[off:]), nil
}

func TestNegativeUploadSize(t *testing.T) {
	in(t, rpc.NewMux(), func(t *testing.T, b *bundle) {
		err := b.client.Upload(t.Context(), "put", text{}, strings.NewReader(""), -1, nil, nil)
		wantFault(t, err, fault.Invalid, "upload put of -1 bytes")
	})
}
