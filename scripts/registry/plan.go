package registry

func phase() []Field {
	return []Field{
		{Name: "before", Type: Steps, Doc: "Steps before it, one or a list."},
		{Name: "after", Type: Steps, Doc: "Steps after it, one or a list."},
	}
}

// step is what every step can say, before its own fields.
func step(own ...Field) []Field {
	return append(own, []Field{
		{Name: "within", Type: Duration, Default: "5m", Doc: "The whole step, with its retries."},
		{Name: "retry", Type: Record, Doc: "Repeats a failed step.", Fields: []Field{
			{Name: "times", Type: Integer, Doc: "How often more."},
			{Name: "every", Type: Duration, Zero: true, Doc: "Time between two attempts."},
		}},
		{Name: "on_fail", Type: Word, Words: []string{"stop", "continue", "ask"}, Doc: "What a failure means; default: as the type of the run says."},
		{Name: "only", Type: Types, Doc: `Types of failover it runs in, one or a list: only = "test", only = { "planned", "unplanned" }; "any" for everywhere.`},
		{Name: "skip", Type: Types, Doc: `Types of failover it does not run in, one or a list: "test", "planned", "unplanned".`},
		{Name: "direction", Type: Word, Words: []string{"failover", "failback"}, Doc: "The direction it runs in."},
	}...)
}

// again is how a step that changes something outside is taken back.
func again() Field {
	return Field{Name: "rollback", Type: Word, Words: []string{"again"},
		Doc: "After a rollback a step that was done runs again, with the addresses of the old site: for DNS names and the like."}
}

// checkFields are the questions of a check, of a plan's step and of ready.
func checkFields() []Field {
	return []Field{
		{Name: "tcp", Type: String, Doc: `"host:port" that accepts a connection; a machine's name is its address in this run.`},
		{Name: "http", Type: String, Doc: "URL that answers."},
		{Name: "expect", Type: Integer, Default: "200", Doc: "Status that is expected."},
		{Name: "contains", Type: String, Doc: "Text that the answer has in it."},
		{Name: "exec", Type: Command, Doc: "Program that ends with 0."},
		{Name: "every", Type: Duration, Default: "2s", Doc: "Time between two questions."},
	}
}

func drillFields() []Field {
	return []Field{
		{Name: "cron", Type: String, Doc: `When: minute hour day month weekday, "0 3 * * SUN".`},
		{Name: "on", Type: String, Doc: `When: "first sunday", "last friday 22:30".`},
		{Name: "tz", Type: String, Doc: "Time zone of the two, as Europe/Paris."},
		{Name: "point", Type: String, Doc: "Selector of the recovery point; see drrun help selector."},
		{Name: "ttl", Type: Duration, Doc: "A test that still stands after this is cleaned up."},
		{Name: "missed", Type: Word, Words: []string{"skip", "once"}, Doc: "What happens to drills missed while no runtime ran."},
		{Name: "overlap", Type: Word, Words: []string{"skip", "queue"}, Doc: "What happens when the drill before still runs."},
		{Name: "deadline", Type: Duration, Doc: "A drill that could not start for so long is skipped."},
		{Name: "jitter", Type: Duration, Zero: true, Doc: "Start up to this much later, by chance."},
		{Name: "blackout", Type: Strings, Doc: `Days without drills, whole days in tz: "2026-12-24", "2026-12-20 to 2027-01-05" or "first sunday".`},
	}
}

// ParamFields is what the table of one parameter can say.
func ParamFields() []Field {
	return []Field{
		{Name: "type", Type: Word, Words: []string{"string", "number", "boolean", "duration", "size", "rate"}, Doc: "Its type; default: that of its default."},
		{Name: "default", Type: Any, Doc: "Its value without --set."},
		{Name: "choices", Type: Strings, Doc: "The values it can have."},
		{Name: "required", Type: Bool, Doc: "A run needs --set for it."},
		{Name: "doc", Type: String, Doc: "What it is for."},
	}
}

func planConstructors() []Constructor {
	cs := []Constructor{
		{Name: "plan", Body: Needed, Items: []string{"group", "wait"}, Doc: "A recovery plan. The file returns it.", Fields: []Field{
			{Name: "from", Type: String, Doc: "Site whose machines it protects."},
			{Name: "to", Type: String, Doc: "Site the machines go to."},
			{Name: "rto", Type: Duration, Doc: "Time that recovery may take."},
			{Name: "rpo", Type: Duration, Doc: "Data, in time, that may be lost."},
			{Name: "point", Type: String, Default: "latest", Doc: "Selector of the recovery point; see drrun help selector."},
			{Name: "commit", Type: Commit, Words: []string{"manual", "auto"}, Default: `"manual"`, Doc: "When a failover is committed.", Fields: []Field{
				{Name: "within", Type: Duration, Doc: "Time that a person has."},
				{Name: "on_timeout", Type: Word, Words: []string{"commit", "rollback"}, Doc: "What happens after it; rollback only of a planned failover whose source is locked and answers."},
			}},
			{Name: "drill", Type: Record, Fields: drillFields(), Doc: "Schedules unattended tests of the plan."},
			{Name: "params", Type: Params, Fields: ParamFields(), Doc: "Values that --set can change, by name: a default, or a table; run.params in functions."},
			{Name: "shutdown", Type: Record, Doc: "The phase that stops the source machines: groups in reverse order, the machines of a group together. A test has none.",
				Fields: append(phase(), Field{Name: "force_after", Type: Duration, Doc: "Allows a forced stop after this."})},
			{Name: "failover", Type: Record, Fields: phase(), Doc: "The phase that gives the target its authority."},
		}},
		{Name: "group", Body: Needed, Items: []string{"machine", "machines"}, Doc: "Machines that start together.", Fields: append(phase(),
			Field{Name: "parallel", Type: Integer, Doc: "How many start at the same time; default: all."},
			Field{Name: "delay", Type: Duration, Zero: true, Doc: "Time to wait before its machines start."})},
		{Name: "machine", Body: Optional, Doc: "A machine of the estate.", Fields: append(phase(),
			Field{Name: "needs", Type: Strings, Doc: "Machines of the group that must be ready first, and their after steps done."},
			Field{Name: "delay", Type: Duration, Zero: true, Doc: "Time to wait before it starts."})},
		{Name: "machines", Body: Needed, Unnamed: true, Doc: "The machines of the estate that have a tag.", Fields: []Field{
			{Name: "tag", Type: String, Doc: "The tag."},
			{Name: "except", Type: Strings, Doc: "Machines to leave out."}}},
		{Name: "exec", Body: Needed, Doc: "A step that runs a program.", Fields: step(
			Field{Name: "cmd", Type: Command, Doc: "The program and its arguments: a list, or a string split into words. Never a shell."},
			Field{Name: "sh", Type: String, Doc: "A line for sh -c, instead of cmd."},
			Field{Name: "on", Type: String, Doc: "Where: a machine (the host that runs it) or a host; default: the controller. The estate must allow the program there."},
			Field{Name: "at", Type: Word, Words: []string{"source", "target"}, Doc: "Which site's host is meant."},
			again())},
		{Name: "check", Body: Needed, Function: true, Doc: "A step that asks until the answer is good.", Fields: step(checkFields()...)},
		{Name: "wait", Body: Needed, Doc: "A step that waits for a person: 5m, unless within says another time, and then on_timeout.", Fields: step(
			Field{Name: "ask", Type: String, Doc: "The question."},
			Field{Name: "role", Type: String, Doc: "Who may answer."},
			Field{Name: "on_timeout", Type: Word, Words: []string{"stop", "continue"}, Default: `"stop"`, Doc: "What happens without an answer."},
			Field{Name: "unattended", Type: Word, Words: []string{"go", "stop"}, Doc: "The answer in a drill. With stop the drill ends here and has failed: only a test that came to its end proves a plan."})},
		{Name: "action", Body: Needed, Function: true, Doc: "A step that is a function(run) … end.", Fields: step(again())},
		{Name: "secret", Body: None, Doc: "A secret of the estate, opened only by functions of modules."},
	}
	for i := range cs {
		cs[i].Scope = PlanFile
	}
	return cs
}

// Selectors are the ways to choose a recovery point: what is written, and what
// it chooses.
var Selectors = [][2]string{
	{"latest", "The newest point; what is in flight is drained first."},
	{"latest-processed", "The newest point that is durable at the target now."},
	{"latest-app", "The newest application-consistent point."},
	{"latest-group", "The newest point of a consistency group."},
	{"2026-11-24 03:00", "The newest point of that instant or before: UTC, or RFC 3339 with a zone."},
	{"LABEL", "The newest point that has this label."},
	{"ID", "The point whose id begins so, 6 digits or more; drrun points MACHINE lists them."},
}
