package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
)

// Sink receives one upload. The handler that returned it decides what is kept
// of an upload that broke off, so that the next one goes on at its Offset.
type Sink[Out any] interface {
	// Offset is the number of bytes already held: 0 … size of the upload.
	// It is asked once, before the first Write.
	Offset() int64
	// Write continues at Offset. An error ends the upload; give it a kind
	// (fault.NoSpace) if the sender can act on it.
	io.Writer
	// Commit is called after all bytes: when it returns, they are durable.
	// Its result is the acknowledgement.
	Commit(ctx context.Context) (Out, error)
	// Abort ends an upload that cannot be finished. Exactly one of Commit and
	// Abort is called, and nothing after it.
	Abort()
}

type callHandler func(ctx context.Context, p transport.Peer, body []byte) (any, error)

type uploadHandler func(ctx context.Context, p transport.Peer, body []byte) (*erasedSink, error)

// erasedSink is a Sink without its type parameter.
type erasedSink struct {
	have   any // result of an upload that is not wanted: acknowledged at once
	offset func() int64
	write  func([]byte) (int, error)
	commit func(context.Context) (any, error)
	abort  func()
}

// Mux finds the handler of a verb. Register every verb before Serve.
type Mux struct {
	calls   map[string]callHandler
	uploads map[string]uploadHandler
}

// NewMux returns an empty Mux.
func NewMux() *Mux {
	return &Mux{calls: map[string]callHandler{}, uploads: map[string]uploadHandler{}}
}

// Verbs lists the registered verbs in order.
func (m *Mux) Verbs() []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(m.calls)), maps.Keys(m.uploads))
	slices.Sort(all)
	return all
}

func (m *Mux) register(verb string) {
	if m.calls[verb] != nil || m.uploads[verb] != nil {
		panic(fmt.Sprintf("internal error: verb %q registered twice", verb))
	}
}

// Handle registers the handler of a request verb; registering a verb twice
// panics. The handler's context ends when the caller gives up, the connection
// dies or Serve ends. Errors reach the caller with kind, message and hint; one
// without a kind is fault.Internal there. A panic is fault.Internal too, and
// the connection lives on.
func Handle[In, Out any](m *Mux, verb string, h func(ctx context.Context, p transport.Peer, in In) (Out, error)) {
	m.register(verb)
	m.calls[verb] = func(ctx context.Context, p transport.Peer, body []byte) (any, error) {
		in, err := decodeBody[In](verb, body)
		if err != nil {
			return nil, err
		}
		return h(ctx, p, in)
	}
}

// HandleUpload registers the handler of an upload verb. The handler gets the
// upload's header and returns where the bytes go; a nil Sink without an error
// says "have it already", which acknowledges the upload with a zero Out.
func HandleUpload[In, Out any](m *Mux, verb string, h func(ctx context.Context, p transport.Peer, in In) (Sink[Out], error)) {
	m.register(verb)
	m.uploads[verb] = func(ctx context.Context, p transport.Peer, body []byte) (*erasedSink, error) {
		in, err := decodeBody[In](verb, body)
		if err != nil {
			return nil, err
		}
		s, err := h(ctx, p, in)
		if err != nil {
			return nil, err
		}
		if s == nil {
			var zero Out
			return &erasedSink{have: zero}, nil
		}
		return &erasedSink{
			offset: s.Offset,
			write:  s.Write,
			commit: func(ctx context.Context) (any, error) { return s.Commit(ctx) },
			abort:  s.Abort,
		}, nil
	}
}

func (m *Mux) call(verb string) (callHandler, error) {
	if h := m.calls[verb]; h != nil {
		return h, nil
	}
	if m.uploads[verb] != nil {
		return nil, fault.Errorf(fault.Invalid, "verb %q is an upload, not a request", verb)
	}
	return nil, m.unknown(verb)
}

func (m *Mux) upload(verb string) (uploadHandler, error) {
	if h := m.uploads[verb]; h != nil {
		return h, nil
	}
	if m.calls[verb] != nil {
		return nil, fault.Errorf(fault.Invalid, "verb %q is a request, not an upload", verb)
	}
	return nil, m.unknown(verb)
}

func (m *Mux) unknown(verb string) error {
	return fault.Errorf(fault.Invalid, "unknown verb %q", verb).
		WithHint("this program knows %s; update the older of the two programs", strings.Join(m.Verbs(), ", "))
}

func decodeBody[In any](verb string, body []byte) (In, error) {
	var in In
	if err := json.Unmarshal(body, &in); err != nil {
		return in, fault.Errorf(fault.Invalid, "cannot read the request %s: %w", verb, err)
	}
	return in, nil
}
