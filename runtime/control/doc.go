// Package control is the interface of a runtime to its command line: HTTP and
// JSON over a Unix socket in the state folder, the same whether a controller
// serves it for months or a single command for a minute. Server has the
// handlers, Client the calls; both use the request and result types of api.go.
//
// A call is POST /v1/VERB with a JSON object, answered with a JSON object or
// with {"error": {kind, message, hint}}; events of a run are one JSON object a
// line. Who may open the socket may do everything: it belongs to the user that
// runs the runtime, mode 0600, in a folder of mode 0700.
//
// It decides nothing and prints nothing. Server and Client are safe for
// concurrent use.
package control
