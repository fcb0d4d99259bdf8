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
	{"point", "", "", "Selector of the recovery point."},
	{"params", "", "", "Values of the plan's params, as --set has left them."},
	{"now", "()", "read", "Seconds since 1970; the same after a resume."},
	{"note", "(text)", "", "Puts a line on the run's timeline; print(…) too."},
	{"machine", "(name)", "", "A machine of the run: name, ip, site, state."},
}

// StepFields is what every step of a plan can say beside its own fields.
func StepFields() []Field { return step() }
