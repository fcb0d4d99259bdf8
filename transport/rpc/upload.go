package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/wire"
)

// Upload sends size bytes of src and waits until the other end has made them
// durable; its acknowledgement is decoded into out (nil: ignored). The other
// end says from which byte it wants them; progress (nil: none) is called on
// this goroutine with the bytes it has been given so far, those included.
// Uploads are spread over the session's bulk connections. An upload that broke
// off is fault.Unreachable: upload again, it goes on where it stopped.
func (c *Client) Upload(ctx context.Context, verb string, in any, src io.ReaderAt, size int64, progress func(sent int64), out any) error {
	body, err := encodeBody(verb, in)
	if err != nil {
		return err
	}
	head, err := wire.EncodeUpload(verb, size, body)
	if err != nil {
		return err
	}
	frame, err := wire.AppendFrame(make([]byte, 0, wire.HeaderSize+len(head)), wire.TypeUpload, head)
	if err != nil {
		return fmt.Errorf("cannot send %s: %w", verb, err)
	}
	n := c.take()
	defer c.giveBack(n)
	st, err := c.bulk[n].open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { _ = st.Close() })
	defer stop()
	if _, err := st.Write(frame); err != nil {
		return c.result(ctx, st, verb, out, err)
	}
	t, b, err := wire.ReadFrame(st, wire.TypeOffset, wire.TypeResult, wire.TypeFault)
	if err != nil {
		return c.lost(ctx, verb, err)
	}
	if t != wire.TypeOffset {
		return c.finish(st, verb, t, b, out)
	}
	off, err := wire.DecodeOffset(b)
	if err != nil {
		return err
	}
	if off > size {
		return fault.Errorf(fault.Conflict, "cannot send %s: the other end holds %d bytes of %d", verb, off, size)
	}
	return c.sendBytes(ctx, st, verb, io.NewSectionReader(src, off, size-off), off, progress, out)
}

// take picks the bulk lane with the fewest uploads; one that backs off only if
// all do.
func (c *Client) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	best, bestCost := 0, int(^uint(0)>>1)
	for i, l := range c.bulk {
		cost := c.active[i]
		if l.wait() > 0 {
			cost += 1 << 20
		}
		if cost < bestCost {
			best, bestCost = i, cost
		}
	}
	c.active[best]++
	return best
}

func (c *Client) giveBack(n int) {
	c.mu.Lock()
	c.active[n]--
	c.mu.Unlock()
}

type lastFrame struct {
	t   wire.Type
	b   []byte
	err error
}

// sendBytes copies src into the stream while it listens for the answer, which
// may come early: a full disk at the other end is told at once.
func (c *Client) sendBytes(ctx context.Context, st transport.Stream, verb string, src io.Reader, off int64, progress func(int64), out any) error {
	last := make(chan lastFrame, 1)
	sent := make(chan struct{})
	go func() {
		t, b, err := wire.ReadFrame(st, wire.TypeResult, wire.TypeFault)
		last <- lastFrame{t, b, err}
		select {
		case <-sent:
		default:
			_ = st.Close() // ends a write that waits for a receiver that is done
		}
	}()
	serr, werr := copyBytes(st, src, off, progress)
	close(sent)
	if serr != nil {
		_ = st.Close() // the receiver keeps what it has
		<-last
		return fmt.Errorf("cannot read what %s sends: %w", verb, serr)
	}
	f := <-last
	if f.err != nil {
		return c.lost(ctx, verb, errors.Join(werr, f.err))
	}
	if werr != nil && f.t == wire.TypeResult {
		return c.lost(ctx, verb, errors.New("it acknowledged bytes that it had not been sent"))
	}
	return c.finish(st, verb, f.t, f.b, out)
}

// copyBytes returns the error of the source and of the stream apart.
func copyBytes(dst io.Writer, src io.Reader, off int64, progress func(int64)) (serr, werr error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if progress != nil {
		progress(off)
	}
	for {
		n, err := io.ReadFull(src, *buf)
		if n > 0 {
			if _, werr := dst.Write((*buf)[:n]); werr != nil {
				return nil, werr
			}
			off += int64(n)
			if progress != nil {
				progress(off)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}
