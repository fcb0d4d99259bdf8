package quicnet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/wire"
)

// A join, on one connection with the application protocol drrun-join/1:
//
//	TLS      the host shows a throw-away certificate, the runtime its identity
//	host     checks that the runtime is of the CA its token names
//	host  →  join proof: host name, proof of the token bound to this TLS
//	         session, signing request
//	runtime  checks proof and token, and spends it
//	runtime→ join grant: certificate chain and CAs, or a fault
//	host     checks and stores them
//	host  →  join done, or a fault
//
// If the connection dies between grant and done the token is spent and the
// host may or may not have joined; a new token settles it.

// joinTimeout bounds a join.
const joinTimeout = 20 * time.Second

type joinProof struct {
	Host string `json:"host"`
	Key  []byte `json:"key"`
	MAC  []byte `json:"mac"`
	CSR  []byte `json:"csr"` // DER
	// Estate and Site are those of a host that joins again: a runtime that lost
	// its state does not know its site.
	Estate string `json:"estate,omitempty"`
	Site   string `json:"site,omitempty"`
}

type joinGrant struct {
	Chain string `json:"chain"` // PEM: the host's certificate first
	CAs   string `json:"cas"`   // PEM
}

// JoinHost lets the host at addr join the estate: the runtime's side. check is
// called with a proof that belongs to this connection; it finds the token kept
// for proof.Host, compares (proof.Matches), and spends it durably before it
// returns nil. Its error goes to the host as well. An empty site is the one that
// a host which joins again says it is of. fault.Unreachable: nobody
// answers; other kinds: one side refused, and the message says why.
func JoinHost(ctx context.Context, addr string, ca *pki.CA, rt *pki.Identity, site, host string, check func(pki.JoinProof) error) error {
	m := New(Fixed(rt), Options{})
	err := m.joinHost(ctx, addr, ca, rt, site, host, check)
	return errors.Join(err, m.Close())
}

func (m *Medium) joinHost(ctx context.Context, addr string, ca *pki.CA, rt *pki.Identity, site, host string, check func(pki.JoinProof) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, joinTimeout, fmt.Errorf("the join took longer than %s", joinTimeout))
	defer cancel()
	conf := rt.ClientTLS(transport.Want{})
	conf.VerifyConnection = nil // whom we talk to is proven by the token
	conf.NextProtos = []string{alpnJoin}
	qc, err := m.dial(ctx, addr, conf)
	if err != nil {
		return err
	}
	st, err := qc.AcceptStream(ctx)
	if err != nil {
		return explain(ctx, addr, err)
	}
	stop := closeOnEnd(ctx, st)
	defer stop()
	sent, err := m.grant(st, qc.ConnectionState().TLS, ca, site, host, check)
	if err != nil {
		if !sent { // the host is still waiting
			err = errors.Join(err, wire.WriteFrame(st, wire.TypeFault, wire.EncodeFault(err)), st.Close())
			_, _ = io.Copy(io.Discard, st) // until it has read the fault
		}
		_ = qc.CloseWithError(codeClosed, "refused") // always nil
		return explainJoin(ctx, addr, err)
	}
	return qc.CloseWithError(codeClosed, "joined")
}

// grant checks the host's proof and gives it its certificate. sent: the host
// has had an answer, or is gone.
func (m *Medium) grant(st *quic.Stream, state tls.ConnectionState, ca *pki.CA, site, host string, check func(pki.JoinProof) error) (sent bool, err error) {
	t, b, err := wire.ReadFrame(st, wire.TypeJoinProof, wire.TypeFault)
	if err != nil {
		return true, err
	}
	if t == wire.TypeFault {
		return true, wire.DecodeFault(b)
	}
	exporter, err := state.ExportKeyingMaterial(pki.JoinExporter, nil, 32)
	if err != nil {
		return false, fmt.Errorf("cannot bind the join to its connection: %w", err)
	}
	proof, asked, err := readProof(b, host, exporter)
	if err != nil {
		return false, err
	}
	if site == "" {
		if site, err = ownSite(asked, ca); err != nil {
			return false, err
		}
	}
	if err := check(proof); err != nil {
		return false, err
	}
	if err := sendGrant(st, ca, asked.CSR, site, host); err != nil {
		return false, err
	}
	return true, awaitDone(st)
}

// ownSite is the site that a host which joins again says it is of.
func ownSite(p joinProof, ca *pki.CA) (string, error) {
	if p.Site == "" || p.Estate != ca.Estate() {
		return "", fault.Errorf(fault.Refused, "host %s is of no site of estate %s that anybody knows: it has not been in it, or is of estate %q", p.Host, ca.Estate(), p.Estate).
			WithHint("name a host that was in the estate, with the state folder it had")
	}
	return p.Site, nil
}

// readProof reads a join proof, which must be of host and belong to the TLS
// session.
func readProof(b []byte, host string, exporter []byte) (proof pki.JoinProof, p joinProof, err error) {
	if err := json.Unmarshal(b, &p); err != nil {
		return pki.JoinProof{}, p, fault.Errorf(fault.Invalid, "cannot read the join proof: %w", err)
	}
	if p.Host != host {
		return pki.JoinProof{}, p, fault.Errorf(fault.Refused, "the agent has a token of host %q, want host %s", p.Host, host).
			WithHint("run drrun-agent join on the right host, or correct addr of %s in the estate", host)
	}
	proof, err = pki.CheckProof(p.Host, p.Key, p.MAC, exporter)
	return proof, p, err
}

func explainJoin(ctx context.Context, addr string, err error) error {
	return explainExchange(ctx, "cannot let the host at "+addr+" join", addr, err)
}

func closeOnEnd(ctx context.Context, st *quic.Stream) (stop func() bool) {
	return context.AfterFunc(ctx, func() { st.CancelRead(0); st.CancelWrite(0) })
}

// answerJoin is the host's side of a join.
func (m *Medium) answerJoin(life context.Context, qc *quic.Conn) {
	ctx, cancel := context.WithTimeoutCause(life, joinTimeout, fmt.Errorf("the join took longer than %s", joinTimeout))
	defer cancel()
	log := m.o.Log.With("addr", qc.RemoteAddr().String())
	token, ok := m.src.Token()
	if !ok {
		err := m.notWaiting()
		log.Warn("join refused", "err", err)
		refusal(qc, err)
		return
	}
	state := qc.ConnectionState().TLS
	rt, err := token.CheckRuntime(state.PeerCertificates, m.o.Clock.Now())
	if err == nil {
		err = m.join(ctx, qc, state, token)
	}
	if err != nil {
		err = explainJoin(ctx, qc.RemoteAddr().String(), err)
		m.src.JoinFailed(err)
		log.Warn("join failed", "host", token.Host, "err", err)
		refusal(qc, err)
		return
	}
	log.Info("host joined", "host", token.Host, "runtime", rt.Runtime, "estate", rt.Estate)
	m.awaitGoodbye(ctx, qc)
}

func (m *Medium) notWaiting() error {
	if id := m.src.Identity(); id != nil {
		p := id.Peer()
		return fault.Errorf(fault.Refused, "the agent there has joined already, as host %s of estate %s", p.Host, p.Estate).
			WithHint("to let it join again, run drrun-agent join TOKEN there")
	}
	return fault.Errorf(fault.Refused, "the agent there has no token to join with").WithHint("run drrun-agent join TOKEN there")
}

// join proves the token to the runtime and stores the identity it gives.
func (m *Medium) join(ctx context.Context, qc *quic.Conn, state tls.ConnectionState, token pki.Token) error {
	exporter, err := state.ExportKeyingMaterial(pki.JoinExporter, nil, 32)
	if err != nil {
		return fmt.Errorf("cannot bind the join to its connection: %w", err)
	}
	req, err := pki.NewRequest()
	if err != nil {
		return err
	}
	key, mac := token.Prove(exporter)
	st, err := qc.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	stop := closeOnEnd(ctx, st)
	defer stop()
	proof := joinProof{Host: token.Host, Key: key, MAC: mac, CSR: req.CSR()}
	if id := m.src.Identity(); id != nil {
		proof.Estate, proof.Site = id.Peer().Estate, id.Peer().Site
	}
	b, err := ask(st, proof)
	if err != nil {
		return err
	}
	if err := m.adopt(b, req, token); err != nil {
		return errors.Join(err, wire.WriteFrame(st, wire.TypeFault, wire.EncodeFault(err)), st.Close())
	}
	return errors.Join(wire.WriteFrame(st, wire.TypeJoinDone, nil), st.Close())
}

// adopt checks and stores what the runtime granted.
func (m *Medium) adopt(b []byte, req *pki.Request, token pki.Token) error {
	id, err := accept(b, req)
	if err != nil {
		return err
	}
	if err := token.CheckGrant(id); err != nil {
		return err
	}
	switch prev := m.src.Identity(); {
	case prev == nil:
	case prev.Trusts(token.Pin):
		id = id.Continue(prev)
	default: // drrun-agent join --again allowed it
		if id, err = id.Succeed(prev); err != nil {
			return err
		}
	}
	return m.src.Store(id)
}
