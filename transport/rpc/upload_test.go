package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
	"github.com/drrun/drrun/transport/simnet"
	"github.com/drrun/drrun/transport/wire"
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

// TestUploadStalls: a sender that hangs with its connection alive is given up,
// and what it sent stays with the sink.
func TestUploadStalls(t *testing.T) {
	m := rpc.NewMux()
	s := &sink{}
	rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, text) (rpc.Sink[text], error) { return s, nil })
	in(t, m, func(t *testing.T, b *bundle) {
		if err := b.client.Upload(t.Context(), "put", text{}, hanging{0, 10 * time.Minute}, 3<<18, nil, nil); err != nil {
			t.Errorf("slow, but alive: %v", err)
		}
		const size = 10 << 20
		err := b.client.Upload(t.Context(), "put", text{}, hanging{size / 2, 20 * time.Minute}, size, nil, nil)
		wantFault(t, err, fault.Unreachable, "put broke off at byte", "nothing came for 15m0s")
		b.stop()
		if s.aborted.Load() != 1 || s.committed.Load() != 1 || s.Len() < size/2 {
			t.Errorf("%d aborts, %d commits, %d bytes", s.aborted.Load(), s.committed.Load(), s.Len())
		}
	})
}

// hanging is a source that takes its time for each piece from a byte on.
type hanging struct {
	from int64
	d    time.Duration
}

func (h hanging) ReadAt(p []byte, off int64) (int, error) {
	if off >= h.from {
		<-time.After(h.d) // of the bubble
	}
	return len(p), nil
}

// TestEarlyAcknowledgement: a result before the last byte went out is no proof
// of anything.
func TestEarlyAcknowledgement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		l, err := n.Medium(host).Listen(t.Context(), ":7830")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- acknowledgeEarly(t.Context(), l) }()
		c := rpc.NewClient(n.Medium(caller), addr, transport.Want{}, rpc.Options{Bulk: 1})
		const size = 64 << 20 // more than any window
		err = c.Upload(t.Context(), "put", text{}, zeros(size), size, nil, nil)
		wantFault(t, err, fault.Unreachable, "acknowledged bytes that it had not been sent")
		if !rpc.OutcomeUnknown(err) {
			t.Error("the outcome counts as known")
		}
		if err := errors.Join(c.Close(), <-served, l.Close()); err != nil {
			t.Error(err)
		}
	})
}

// acknowledgeEarly is a peer that answers an upload with its offset and its
// result at once.
func acknowledgeEarly(ctx context.Context, l transport.Listener) error {
	c, err := l.Accept(ctx)
	if err != nil {
		return err
	}
	hello, err := wire.Hello{Protocol: rpc.Protocol, Program: "liar", Version: "1"}.Encode()
	if err != nil {
		return err
	}
	for _, answer := range [][]byte{frame(wire.TypeHello, hello), append(frame(wire.TypeOffset, wire.EncodeOffset(0)), frame(wire.TypeResult, []byte("{}"))...)} {
		st, err := c.Accept(ctx)
		if err != nil {
			return err
		}
		if _, _, err := wire.ReadFrame(st); err != nil {
			return err
		}
		if _, err := st.Write(answer); err != nil {
			return err
		}
		if err := st.CloseWrite(); err != nil {
			return err
		}
	}
	return nil
}

func frame(t wire.Type, payload []byte) []byte {
	b, err := wire.AppendFrame(nil, t, payload)
	if err != nil {
		panic(err)
	}
	return b
}

func TestNegativeUploadSize(t *testing.T) {
	in(t, rpc.NewMux(), func(t *testing.T, b *bundle) {
		err := b.client.Upload(t.Context(), "put", text{}, strings.NewReader(""), -1, nil, nil)
		wantFault(t, err, fault.Invalid, "upload put of -1 bytes")
	})
}
