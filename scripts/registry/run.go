package registry

// RunFields is what a function of a plan finds in its argument: run.id,
// run:machine("db1").ip.
var RunFields = []Function{
	{"id", "", "", "Name of the run."},
	{"type", "", "", "test, planned or unplanned."},
	{"direction", "", "", "failover or failback."},
	{"from", "", "", "Site the machines come from."},
	{"to", "", "", "Site they go to."},
	{"started_by", "", "", "Who started the run."},
	{"point", "", "", "Selector of the recovery point; see drrun help selector."},
	{"params", "", "", "Values of the plan's params, as --set has left them."},
	{"now", "()", "read", "Seconds since 1970; the same after a resume."},
	{"note", "(text)", "", "Puts a line on the run's timeline; print(…) too."},
	{"set", "(name, value)", "idempotent", "Keeps a value for the actions of this run: what JSON can hold; nil drops it. Not a secret."},
	{"get", "(name)", "read", "The value that an action of this run has kept; nil: none."},
	{"ask", "(question, { role =, within =, on_timeout =, unattended = })", "read", "A manual wait inside the action: on go it returns true, what the person said and who it was. Anything else is as in a wait; with on_timeout = \"continue\" it returns false then. A drill answers as unattended says, else with stop, and has failed then."},
	{"machine", "(name)", "", "A machine of the run: name, ip (its address in this run), site (where it is), state: how far the run is with it: pending, stopped, granted, prepared, started, ready, failed, given back, returned, committed, replicating, cleaned up."},
}

// StepFields is what every step of a plan can say beside its own fields.
func StepFields() []Field { return step() }
