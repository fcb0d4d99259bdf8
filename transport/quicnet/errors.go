package quicnet

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/quic-go/quic-go"

	"github.com/drrun/drrun/internal/fault"
)

// Application error codes of a closed connection.
const (
	codeClosed quic.ApplicationErrorCode = 0     // an ordinary end, the reason is text
	codeFault  quic.ApplicationErrorCode = 0x100 // plus the kind of a fault
)

// maxReason bounds the text of a close: it travels in one packet.
const maxReason = 800

// hintMark separates message and hint in the reason of a refusal.
const hintMark = "\n"

var errNobodyListens = errors.New("nothing listens there")

func refusedByHost(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// refusal is the close that tells the other end a fault.
func refusal(qc *quic.Conn, err error) {
	f := fault.Wrap(fault.Refused, err)
	text := f.Message
	if h := fault.Hint(err); h != "" {
		text += hintMark + h
	}
	_ = qc.CloseWithError(codeFault+quic.ApplicationErrorCode(f.Kind), clip(text)) // always nil
}

func clip(s string) string {
	if len(s) <= maxReason {
		return s
	}
	n := maxReason
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// explain turns an error of quic into a fault that names the other end.
func explain(ctx context.Context, addr string, err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	var (
		app  *quic.ApplicationError
		tr   *quic.TransportError
		idle *quic.IdleTimeoutError
		hs   *quic.HandshakeTimeoutError
		rst  *quic.StatelessResetError
		st   *quic.StreamError
		f    *fault.Error
	)
	unreachable := func(format string, args ...any) error {
		return fault.Errorf(fault.Unreachable, format, args...)
	}
	const hint = "is drrun-agent running there, and does UDP to that port pass the firewalls?"
	switch {
	case errors.As(err, &f): // our own check of the certificate
		return fault.Errorf(f.Kind, "cannot connect to %s: %w", addr, f)
	case errors.As(err, &app):
		return explainClose(addr, app)
	case errors.Is(err, errNobodyListens):
		return fault.Errorf(fault.Unreachable, "cannot reach %s: %w", addr, err).WithHint(hint)
	case errors.As(err, &hs):
		return fault.Errorf(fault.Unreachable, "cannot reach %s: no answer", addr).WithHint(hint)
	case errors.As(err, &idle):
		return unreachable("the connection to %s died: no sign of life", addr)
	case errors.As(err, &rst):
		return unreachable("the connection to %s died: the other end was restarted", addr)
	case errors.As(err, &st) && !st.Remote:
		return unreachable("the stream to %s was closed here", addr)
	case errors.As(err, &st):
		return unreachable("%s dropped the stream", addr)
	case errors.As(err, &tr):
		return explainAlert(addr, tr)
	case ctx.Err() != nil:
		return unreachable("cannot reach %s: %w", addr, context.Cause(ctx))
	}
	return unreachable("cannot reach %s: %w", addr, err)
}

func explainClose(addr string, app *quic.ApplicationError) error {
	text, hint, _ := strings.Cut(app.ErrorMessage, hintMark)
	switch {
	case !app.Remote:
		return fault.Errorf(fault.Unreachable, "the connection to %s was closed here: %s", addr, text)
	case app.ErrorCode > codeFault && app.ErrorCode <= codeFault+0xff:
		f := fault.Errorf(fault.Kind(app.ErrorCode-codeFault), "%s refused the connection: %s", addr, text)
		if hint != "" {
			f = f.WithHint("%s", hint)
		}
		return f
	}
	return fault.Errorf(fault.Unreachable, "%s closed the connection: %s", addr, text)
}

// explainAlert names the TLS alerts (transport error 0x100 + alert).
func explainAlert(addr string, tr *quic.TransportError) error {
	const alertNoALPN = 0x100 + 120
	switch {
	case tr.ErrorCode == alertNoALPN:
		return fault.Errorf(fault.Refused, "cannot connect to %s: it does not speak %s", addr, alpn).
			WithHint("something else answers there, or one of the two programs is too old")
	case tr.ErrorCode.IsCryptoError() && tr.Remote:
		return fault.Errorf(fault.Refused, "%s refused our certificate: %s", addr, tr.Error()).WithHint("its log says why")
	case tr.ErrorCode.IsCryptoError():
		return fault.Errorf(fault.Refused, "cannot trust %s: %s", addr, tr.Error())
	}
	return fault.Errorf(fault.Unreachable, "the connection to %s died: %s", addr, tr.Error())
}
