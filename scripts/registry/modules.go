package registry

import "slices"

// Function is a function of a module. All belong to run scope.
type Function struct {
	Name  string
	Args  string // as the documents show them
	Class string // class of its operation: read, idempotent, unsafe; "" : it touches nothing
	Doc   string
}

// ModuleDoc is a module of drrun: local http = require "drrun.http".
type ModuleDoc struct {
	Name      string
	Doc       string
	Functions []Function
}

// Names returns the names of the module's functions.
func (m ModuleDoc) Names() []string {
	names := make([]string, len(m.Functions))
	for i, f := range m.Functions {
		names[i] = f.Name
	}
	return names
}

// Function returns the function of that name.
func (m ModuleDoc) Function(name string) (Function, bool) {
	i := slices.IndexFunc(m.Functions, func(f Function) bool { return f.Name == name })
	if i < 0 {
		return Function{}, false
	}
	return m.Functions[i], true
}

// Module returns the module of that name, without "drrun.".
func Module(name string) (ModuleDoc, bool) {
	i := slices.IndexFunc(Modules, func(m ModuleDoc) bool { return m.Name == name })
	if i < 0 {
		return ModuleDoc{}, false
	}
	return Modules[i], true
}

// ModuleNames returns the names to require: "drrun.http".
func ModuleNames() []string {
	names := make([]string, len(Modules))
	for i, m := range Modules {
		names[i] = "drrun." + m.Name
	}
	return names
}

// Modules is every module of this build.
var Modules = []ModuleDoc{
	{Name: "dns", Doc: "Names: asked for, and pointed at the site that is active (RFC 2136, signed by TSIG).", Functions: []Function{
		{"lookup", "name, { type =, server =, within = }", "read", "List of values of a name, sorted; A and AAAA unless type (A, AAAA, CNAME, TXT) is said, from the controller's resolver unless server is. A name that does not exist has none."},
		{"update", "{ server =, name =, a =, aaaa =, cname =, txt =, ttl =, key =, zone =, within = }", "idempotent", "Puts the values in place of those of their types; false removes a type. key is a secret as nsupdate -y takes it: hmac-sha256:NAME:BASE64."},
	}},
	{Name: "exec", Doc: "Programs on the hosts of the estate and on the controller, as far as the estate allows them.", Functions: []Function{
		{"run", "{ on =, cmd =, within =, accept =, class = }", "unsafe", "Runs a program on the host of a machine, or a host; without on, on the controller. Returns { exit, output }. An exit code that is not accepted (0) is an error. class = \"read\" or \"idempotent\" says that it may be run again where nobody knows whether it ran."},
	}},
	{Name: "http", Doc: "HTTP requests from the controller.", Functions: []Function{
		{"get", "url, { headers =, within =, expect = }", "read", "Returns { status, body, headers }. A status that is not expected (200 to 399) is an error."},
		{"post", "url, { body =, json =, headers =, within =, expect = }", "idempotent", "As get; sends an Idempotency-Key, the same one for the same request in every attempt of the action, so that a server that knows keys does it once. Behind a refusal (4xx, but not 408 and 409) it is a new one. A request that differs each time needs a key of its own in headers."},
		{"request", "{ method =, url =, headers =, within =, expect =, body =, json = }", "idempotent", "Any method; GET and HEAD are read."},
	}},
	{Name: "json", Doc: "JSON texts.", Functions: []Function{
		{"decode", "text", "", "The value of a text."},
		{"encode", "value", "", "The text of a value; keys are sorted."},
	}},
	{Name: "log", Doc: "Lines on the run's timeline.", Functions: []Function{
		{"debug", "text, …", "", "A line for developers."},
		{"error", "text, …", "", "A line about something that went wrong."},
		{"info", "text, …", "", "A line."},
		{"warn", "text, …", "", "A line about something to look at."},
	}},
	{Name: "re", Doc: "Regular expressions of RE2: time in proportion to the text.", Functions: []Function{
		{"escape", "text", "", "A pattern that matches just the text."},
		{"find", "pattern, text", "", "Begin and end of the first match, from 1; nil when there is none."},
		{"match", "pattern, text", "", "Captures of the first match: 0 is the whole, groups by number and by name; nil when there is none."},
		{"replace", "pattern, text, with", "", "The text with every match replaced; $1 and ${name} are groups."},
		{"split", "pattern, text", "", "List of what stands between the matches."},
	}},
	{Name: "ssh", Doc: "Commands on machines without an agent, from the controller. The host's key must be known.", Functions: []Function{
		{"run", "{ host =, user =, key =, known_hosts =, cmd =, sh =, stdin =, within =, accept =, class = }", "unsafe", "Runs a program (cmd, a list) or a line of the host's shell (sh); returns { exit, output, stderr }, of each the last MiB. key is a secret: a private key; known_hosts are lines of such a file, or a secret. As in exec.run: accept, class."},
	}},
	{Name: "tcp", Doc: "TCP from the controller.", Functions: []Function{
		{"connect", "address, { within = }", "read", "true when a connection is accepted; else false and why."},
	}},
	{Name: "template", Doc: "Texts with places for values.", Functions: []Function{
		{"render", "text, values", "", "Replaces {{name}} and {{a.b}}; a place without a value is an error, and a text with a secret in it is a secret."},
	}},
	{Name: "time", Doc: "The run's time; read once and the same after a resume.", Functions: []Function{
		{"duration", "text", "", `Seconds of "5m".`},
		{"format", "seconds", "", "RFC 3339, UTC."},
		{"now", "", "read", "Seconds since 1970."},
		{"sleep", "duration", "read", "Waits."},
	}},
}
