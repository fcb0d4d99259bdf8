package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/drrun/drrun/internal/fault"
)

// Limits of one message.
const (
	maxHeader  = 64 << 10 // bytes of the HTTP header
	maxRequest = 64 << 20 // bytes: an estate with its modules is far below
	maxLine    = 16 << 20 // bytes of one event
)

// verb is one call with its request and result types.
type verb[In, Out any] struct{ name string }

// failure is how an error goes over the socket.
type failure struct {
	Error *fault.Error `json:"error"`
}

func toFault(err error) *fault.Error {
	var fe *fault.Error
	if errors.As(err, &fe) {
		return &fault.Error{Kind: fe.Kind, Message: err.Error(), Hint: fault.Hint(err)}
	}
	return fault.Wrap(fault.Internal, err)
}

// handle serves a verb.
func handle[In, Out any](mux *http.ServeMux, v verb[In, Out], h func(ctx context.Context, in In) (Out, error)) {
	mux.HandleFunc("POST /v1/"+v.name, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxRequest {
			reply(w, failure{fault.Errorf(fault.Invalid, "the request has %d bytes, the limit is %d", r.ContentLength, maxRequest)})
			return
		}
		var in In
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		dec.DisallowUnknownFields() // a field that is not understood must not be left out in silence
		err := dec.Decode(&in)
		if err == nil && dec.More() {
			err = errors.New("there is more than one object")
		}
		if err != nil {
			reply(w, failure{fault.Errorf(fault.Invalid, "cannot read the request: %v", err).
				WithHint("use the drrun of the same version as the controller")})
			return
		}
		out, err := h(r.Context(), in)
		if err != nil {
			reply(w, failure{toFault(err)})
			return
		}
		reply(w, out)
	})
}

// reply writes a result or a failure. When the caller has gone there is nobody
// left to tell.
func reply(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		v, data = nil, []byte(`{"error":{"kind":1,"message":"cannot write the result"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	if f, failed := v.(failure); failed || v == nil {
		w.WriteHeader(statusOf(f.Error))
	}
	_, _ = w.Write(data)
}

// statusOf gives other programs the usual word; drrun itself reads the kind.
func statusOf(e *fault.Error) int {
	if e == nil {
		return http.StatusInternalServerError
	}
	switch e.Kind {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Refused, fault.Conflict:
		return http.StatusConflict
	case fault.Unreachable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// readReply reads what reply wrote.
func readReply(resp *http.Response, out any) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
	if err != nil {
		return fault.Errorf(fault.Unreachable, "cannot read the runtime's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if err := json.Unmarshal(data, &f); err != nil || f.Error == nil {
			return fault.Errorf(fault.Unreachable, "the runtime answers %s, which is not drrun's protocol", resp.Status).
				WithHint("is the controller of another version?")
		}
		return f.Error
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fault.Errorf(fault.Unreachable, "cannot read the runtime's answer: %w", err)
	}
	return nil
}
