package agent

import (
	"context"
	"io"
	"sync"

	"github.com/drrun/drrun/agent/source"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport/rpc"
)

// link is the receiving agent as a source sees it.
type link struct {
	a    *Agent
	host string

	mu     sync.Mutex
	codecs []string // of its last hello
}

var _ source.Peer = (*link)(nil)

func ask1[In, Out any](ctx context.Context, l *link, v command.Verb[In, Out], in In) (Out, error) {
	var out Out
	p, err := l.a.peer(l.host)
	if err != nil {
		return out, err
	}
	err = p.Call(ctx, v.Name, in, &out)
	return out, named(err, l.host)
}

// named says which host an unreachable one is.
func named(err error, host string) error {
	if fault.Is(err, fault.Unreachable) && !rpc.OutcomeUnknown(err) {
		return fault.Errorf(fault.Unreachable, "host %s: %w", host, err)
	}
	return err
}

// Tip implements source.Peer.
func (l *link) Tip(ctx context.Context, in command.TipRequest) (command.TipResult, error) {
	return ask1(ctx, l, command.Tip, in)
}

// Codecs implements source.Peer. While there is no connection the last hello
// counts.
func (l *link) Codecs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, err := l.a.peer(l.host); err == nil {
		if h, ok := p.Hello(); ok {
			l.codecs = h.Codecs
		}
	}
	return l.codecs
}

// Accept implements source.Peer.
func (l *link) Accept(ctx context.Context, in command.AcceptRequest) (command.AcceptResult, error) {
	return ask1(ctx, l, command.Accept, in)
}

// Ranges implements source.Peer.
func (l *link) Ranges(ctx context.Context, in command.RangesRequest) (command.RangesResult, error) {
	return ask1(ctx, l, command.Ranges, in)
}

// Blocks implements source.Peer.
func (l *link) Blocks(ctx context.Context, in command.BlocksRequest) (command.BlocksResult, error) {
	return ask1(ctx, l, command.Blocks, in)
}

// Put implements source.Peer.
func (l *link) Put(ctx context.Context, h command.SegmentHeader, src io.ReaderAt, progress func(sent int64)) error {
	p, err := l.a.peer(l.host)
	if err != nil {
		return err
	}
	var out command.Empty
	return named(p.Upload(ctx, command.Segment.Name, h, src, h.Size, progress, &out), l.host)
}
