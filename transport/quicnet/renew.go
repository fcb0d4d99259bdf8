package quicnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/quic-go/quic-go"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/wire"
)

// A renewal, on one connection with the application protocol drrun-renew/1.
// Both ends prove themselves by the certificates they have; a host's may have
// run out, within the 30 days of grace.
//
//	host   →  join proof: a signing request for a new key, or
//	          join done: half of the certificate's life is still ahead
//	runtime→  join grant: a certificate of the same name, or a fault
//	host   →  join done: stored, or a fault

// RenewHost gives the host at addr a new certificate if half of the life of
// the one it has is over (renewed), and does nothing otherwise. To be called
// now and then, for example once a day, for every host. Errors as in Dial.
func RenewHost(ctx context.Context, addr string, ca *pki.CA, rt *pki.Identity, host string) (renewed bool, err error) {
	m := New(Fixed(rt), Options{})
	renewed, err = m.renewHost(ctx, addr, ca, rt, transport.Want{Host: host})
	return renewed, errors.Join(err, m.Close())
}

func (m *Medium) renewHost(ctx context.Context, addr string, ca *pki.CA, rt *pki.Identity, want transport.Want) (renewed bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, joinTimeout, fmt.Errorf("the renewal took longer than %s", joinTimeout))
	defer cancel()
	conf := rt.ClientTLS(want)
	conf.NextProtos = []string{alpnRenew}
	qc, err := m.dial(ctx, addr, conf)
	if err != nil {
		return false, err
	}
	p, err := rt.Verify(qc.ConnectionState().TLS.PeerCertificates, want)
	if err != nil {
		return false, err
	}
	st, err := qc.AcceptStream(ctx)
	if err != nil {
		return false, explain(ctx, addr, err)
	}
	stop := closeOnEnd(ctx, st)
	defer stop()
	renewed, err = regrant(st, ca, p)
	if err != nil {
		err = explainExchange(ctx, "cannot renew the certificate of the host at "+addr, addr, err)
		refusal(qc, err)
		return false, err
	}
	return renewed, qc.CloseWithError(codeClosed, "done")
}

// regrant signs what the host asks for, under the name it has proven.
func regrant(st *quic.Stream, ca *pki.CA, p transport.Peer) (renewed bool, err error) {
	t, b, err := wire.ReadFrame(st, wire.TypeJoinProof, wire.TypeJoinDone, wire.TypeFault)
	switch {
	case err != nil:
		return false, err
	case t == wire.TypeFault:
		return false, wire.DecodeFault(b)
	case t == wire.TypeJoinDone:
		return false, nil
	}
	var ask joinProof
	if err := json.Unmarshal(b, &ask); err != nil {
		return false, fault.Errorf(fault.Invalid, "cannot read the signing request: %w", err)
	}
	if err := sendGrant(st, ca, ask.CSR, p.Site, p.Host); err != nil {
		return false, err
	}
	return true, awaitDone(st)
}

// sendGrant signs a host's request and sends it its certificates.
func sendGrant(st *quic.Stream, ca *pki.CA, csr []byte, site, host string) error {
	b, err := grantFor(ca, csr, site, host)
	if err != nil {
		return err
	}
	return wire.WriteFrame(st, wire.TypeJoinGrant, b)
}

func grantFor(ca *pki.CA, csr []byte, site, host string) ([]byte, error) {
	chain, err := ca.SignHost(csr, site, host)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(joinGrant{Chain: string(chain), CAs: string(ca.CertPEM())})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the grant: %w", err)
	}
	return b, nil
}

// awaitDone waits until the host has stored its certificates.
func awaitDone(st *quic.Stream) error {
	t, b, err := wire.ReadFrame(st, wire.TypeJoinDone, wire.TypeFault)
	if err == nil && t == wire.TypeFault {
		err = wire.DecodeFault(b)
	}
	return err
}

// answerRenewal is the host's side of a renewal.
func (m *Medium) answerRenewal(life context.Context, qc *quic.Conn) {
	ctx, cancel := context.WithTimeoutCause(life, joinTimeout, fmt.Errorf("the renewal took longer than %s", joinTimeout))
	defer cancel()
	renewed, err := m.renew(ctx, qc)
	if err != nil {
		m.o.Log.Warn("certificate not renewed", "addr", qc.RemoteAddr().String(), "err", err)
		refusal(qc, err)
		return
	}
	if renewed {
		m.o.Log.Info("certificate renewed", "until", m.src.Identity().NotAfter())
	}
	m.awaitGoodbye(ctx, qc)
}

// awaitGoodbye waits until the runtime, which has read that we are done,
// closes the connection.
func (m *Medium) awaitGoodbye(ctx context.Context, qc *quic.Conn) {
	select {
	case <-qc.Context().Done():
	case <-ctx.Done():
		_ = qc.CloseWithError(codeClosed, "done") // always nil
	}
}

func (m *Medium) renew(ctx context.Context, qc *quic.Conn) (renewed bool, err error) {
	id := m.src.Identity()
	if id == nil {
		return false, fault.Errorf(fault.Refused, "this host has not joined an estate yet")
	}
	rt, err := id.Verify(qc.ConnectionState().TLS.PeerCertificates, transport.Want{})
	if err != nil {
		return false, err
	}
	if rt.Runtime == "" {
		return false, fault.Errorf(fault.Refused, "%s dialled to renew a certificate, only a runtime may", rt)
	}
	st, err := qc.OpenStreamSync(ctx)
	if err != nil {
		return false, err
	}
	stop := closeOnEnd(ctx, st)
	defer stop()
	if !id.NeedsRenewal() {
		return false, errors.Join(wire.WriteFrame(st, wire.TypeJoinDone, nil), st.Close())
	}
	req, err := pki.NewRequest()
	if err != nil {
		return false, err
	}
	b, err := ask(st, joinProof{Host: id.Peer().Host, CSR: req.CSR()})
	if err != nil {
		return false, err
	}
	next, err := accept(b, req)
	if err != nil {
		return false, err
	}
	if got, want := next.Peer(), id.Peer(); got != want {
		return false, fault.Errorf(fault.Refused, "the runtime signed a certificate of %s, this is %s", got, want)
	}
	if err := m.src.Store(next.Continue(id)); err != nil { // CAs enrolled beside this one stay
		return false, err
	}
	return true, errors.Join(wire.WriteFrame(st, wire.TypeJoinDone, nil), st.Close())
}

// ask sends a signing request and returns the grant.
func ask(st *quic.Stream, p joinProof) ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the join proof: %w", err)
	}
	if err := wire.WriteFrame(st, wire.TypeJoinProof, b); err != nil {
		return nil, err
	}
	t, b, err := wire.ReadFrame(st, wire.TypeJoinGrant, wire.TypeFault)
	if err == nil && t == wire.TypeFault {
		err = wire.DecodeFault(b)
	}
	return b, err
}

// accept joins our key with what the runtime granted.
func accept(b []byte, req *pki.Request) (*pki.Identity, error) {
	var g joinGrant
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot read the grant: %w", err)
	}
	return req.Identity([]byte(g.Chain), []byte(g.CAs))
}

// explainExchange gives an error of a join or renewal a kind, and keeps a
// fault's.
func explainExchange(ctx context.Context, what, addr string, err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return fault.Errorf(f.Kind, "%s: %w", what, f)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Errorf(fault.Unreachable, "%s: the connection ended", what)
	}
	return explain(ctx, addr, err)
}
