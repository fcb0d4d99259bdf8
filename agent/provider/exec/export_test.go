package execprov

// Internals under test.
var (
	Expand      = expand
	Environment = environment
	ParseUnit   = parseUnit
)

// ParseStat returns the fields that are used.
func ParseStat(b []byte) (pid int, state byte, session int, started uint64, err error) {
	s, err := parseStat(b)
	return s.pid, s.state, s.session, s.started, err
}
