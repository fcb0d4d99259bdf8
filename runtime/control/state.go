package control

import (
	"context"
	"io"
	"net/http"

	"github.com/drrun/drrun/internal/fault"
)

// ServeState lets clients read the state as it is at one moment: backup writes
// it. Call it before Serve.
func (s *Server) ServeState(backup func(io.Writer) error) { s.backup = backup }

// state streams the state. A failure on the way breaks the stream: what the
// client has got then is not whole, and it sees that.
func (s *Server) state(w http.ResponseWriter, _ *http.Request) {
	if s.backup == nil {
		reply(w, failure{fault.Errorf(fault.Refused, "this runtime gives no copy of its state")})
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := s.backup(w); err != nil {
		s.log.Error("cannot copy the state", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// State writes the state of the runtime, as it is at one moment, to w.
func (c *Client) State(ctx context.Context, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://drrun/v1/state", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readReply(resp, nil)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return c.unreachable(ctx, err)
	}
	return nil
}
