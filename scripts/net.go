package scripts

import (
	"context"
	"net"
	"net/http"
)

// Doer sends an HTTP request.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Dialer opens a connection.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)
