package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/url"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

// Client calls the runtime behind a socket. Errors are those of the runtime,
// with kind, message and hint, or fault.Unreachable.
type Client struct {
	http *http.Client
	path string
	gone func(ctx context.Context) error
}

// NewClient makes a client; it connects with the first call. gone (nil: none)
// is called when nobody serves the socket any more: if it returns nil, somebody
// does again, and the call goes on. It may be called from several goroutines.
func NewClient(path string, gone func(ctx context.Context) error) *Client {
	c := &Client{path: path, gone: gone}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.dial, IdleConnTimeout: idle / 2}} // before the server ends it
	return c
}

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := dial(ctx, c.path)
	if err == nil || c.gone == nil || !fault.Is(err, fault.Unreachable) {
		return conn, err
	}
	if err := c.gone(ctx); err != nil {
		return nil, err
	}
	return dial(ctx, c.path)
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func call[In, Out any](ctx context.Context, c *Client, v verb[In, Out], in In) (Out, error) {
	var out Out
	body, err := json.Marshal(in)
	if err != nil {
		return out, fault.Errorf(fault.Internal, "cannot write the request %s: %w", v.name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://drrun/v1/"+v.name, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return out, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	return out, readReply(resp, &out)
}

// unreachable keeps a kind that the error has, and the cause of an ended ctx.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var fe *fault.Error
	if errors.As(err, &fe) {
		return err
	}
	return fault.Errorf(fault.Unreachable, "the runtime at %s went away: %w", c.path, err).
		WithHint("what was asked may have been done: drrun runs")
}

// Info asks who serves the socket.
func (c *Client) Info(ctx context.Context) (Info, error) { return call(ctx, c, verbInfo, Empty{}) }

// Estate returns the applied estate.
func (c *Client) Estate(ctx context.Context) (EstateResult, error) {
	return call(ctx, c, verbEstate, Empty{})
}

// Apply applies an estate and plans, or says what that would change.
func (c *Client) Apply(ctx context.Context, r estate.ApplyRequest) (estate.ApplyResult, error) {
	return call(ctx, c, verbApply, r)
}

// Status asks the agents; an empty machine means all.
func (c *Client) Status(ctx context.Context, machine string) (estate.Status, error) {
	return call(ctx, c, verbStatus, MachineRequest{Machine: machine})
}

// Points lists recovery points.
func (c *Client) Points(ctx context.Context, machine string) (PointsResult, error) {
	return call(ctx, c, verbPoints, MachineRequest{Machine: machine})
}

// Hold holds a point, or releases it.
func (c *Client) Hold(ctx context.Context, r HoldRequest) (HoldResult, error) {
	return call(ctx, c, verbHold, r)
}

// Verify reads points whole.
func (c *Client) Verify(ctx context.Context, r VerifyRequest) (VerifyResult, error) {
	return call(ctx, c, verbVerify, r)
}

// Unprotect ends the protection of a machine.
func (c *Client) Unprotect(ctx context.Context, r UnprotectRequest) (UnprotectResult, error) {
	return call(ctx, c, verbUnprotect, r)
}

// Token makes a join token.
func (c *Client) Token(ctx context.Context, host string) (estate.Token, error) {
	return call(ctx, c, verbToken, TokenRequest{Host: host})
}

// Start starts a run and returns it as soon as it is durable.
func (c *Client) Start(ctx context.Context, r StartRequest) (report.Run, error) {
	return call(ctx, c, verbStart, r)
}

// Explain returns the steps of a run that is not started.
func (c *Client) Explain(ctx context.Context, r StartRequest) (report.Explain, error) {
	return call(ctx, c, verbExplain, r)
}

// Reverse starts a run that replicates back.
func (c *Client) Reverse(ctx context.Context, r ReverseRequest) (report.Run, error) {
	return call(ctx, c, verbReverse, r)
}

// ExplainReverse lists what Reverse would do.
func (c *Client) ExplainReverse(ctx context.Context, r ReverseRequest) (report.Explain, error) {
	return call(ctx, c, verbExplainRv, r)
}

// Runs lists the runs.
func (c *Client) Runs(ctx context.Context) ([]report.Run, error) {
	r, err := call(ctx, c, verbRuns, Empty{})
	return r.Runs, err
}

// Run returns one run with its steps.
func (c *Client) Run(ctx context.Context, run string) (report.Run, error) {
	return call(ctx, c, verbRun, RunRequest{Run: run})
}

// Answer answers a wait.
func (c *Client) Answer(ctx context.Context, r AnswerRequest) (report.Run, error) {
	return call(ctx, c, verbAnswer, r)
}

// Pause stops a run after the steps under way.
func (c *Client) Pause(ctx context.Context, r RunRequest) (report.Run, error) {
	return call(ctx, c, verbPause, r)
}

// Resume goes on with a stopped run.
func (c *Client) Resume(ctx context.Context, r RunRequest) (report.Run, error) {
	return call(ctx, c, verbResume, r)
}

// Cancel ends a run and leaves every machine in a state of its own.
func (c *Client) Cancel(ctx context.Context, r RunRequest) (report.Run, error) {
	return call(ctx, c, verbCancel, r)
}

// Commit makes a failover final.
func (c *Client) Commit(ctx context.Context, r RunRequest) (report.Run, error) {
	return call(ctx, c, verbCommit, r)
}

// Cleanup ends a test.
func (c *Client) Cleanup(ctx context.Context, r RunRequest) (report.Run, error) {
	return call(ctx, c, verbCleanup, r)
}

// Written says what the machines of an uncommitted failover have written at the
// new site. It reads their disks: that takes its time.
func (c *Client) Written(ctx context.Context, r RunRequest) (WrittenResult, error) {
	return call(ctx, c, verbWritten, r)
}

// Rollback takes an uncommitted failover back.
func (c *Client) Rollback(ctx context.Context, r RunRequest) (report.Run, error) {
	return call(ctx, c, verbRollback, r)
}

// ChangePoint puts the machines of an uncommitted failover on another point.
func (c *Client) ChangePoint(ctx context.Context, r RunRequest) (report.Run, error) {
	return call(ctx, c, verbPoint, r)
}

// Events yields the events of a run after a sequence number until the run has
// ended for good, ctx ends, or the runtime goes away (an error of kind
// Unreachable: ask again after the last sequence number seen).
func (c *Client) Events(ctx context.Context, run string, after uint64) iter.Seq2[report.Event, error] {
	return func(yield func(report.Event, error) bool) {
		u := fmt.Sprintf("http://drrun/v1/runs/%s/events?after=%d", url.PathEscape(run), after)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			yield(report.Event{}, err)
			return
		}
		resp, err := c.http.Do(req)
		if err != nil {
			yield(report.Event{}, c.unreachable(ctx, err))
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			yield(report.Event{}, readReply(resp, nil))
			return
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			ev, err := decodeEvent(lines.Bytes())
			if !yield(ev, err) || err != nil {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(report.Event{}, c.unreachable(ctx, err))
		}
	}
}

// decodeEvent reads one line of an event stream: an event, or the failure that
// ends the stream.
func decodeEvent(line []byte) (report.Event, error) {
	var l struct {
		report.Event
		Error *fault.Error `json:"error"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return report.Event{}, fault.Errorf(fault.Unreachable, "cannot read an event of the runtime: %w", err)
	}
	if l.Error != nil {
		return report.Event{}, l.Error
	}
	return l.Event, nil
}
