package registry

// TestFile is the scope of NAME_test.lua and NAME_world.lua: tests of plans, and
// what the simulated world of a plan is like.
const TestFile Scope = "test"

// TestFunctions are the globals of a test file, and what require "drrun.testing"
// returns.
var TestFunctions = []Function{
	{"describe", "name, function() … end", "", "Puts tests together under a name."},
	{"it", "name, function() … end", "", "A test. Each one begins with the file evaluated anew."},
	{"before_each", "function() … end", "", "Runs before each test of its describe."},
	{"world", "[plan], [{ estate =, set = }]", "", `A simulated world, every machine at home; the plan is "NAME.lua" beside NAME_test.lua unless one is named. NAME_world.lua beside the plan is applied to it.`},
	{"crash_everywhere", "[plan], [{ estate =, set = }], function(w) … end", "", "Runs the function once, then once for each journal record with the runtime killed before it is committed, and once right after; each time the end must be the same and nothing is done twice."},
	{"assert", "value, [text]", "", "Fails when the value is nil or false; has the functions below."},
}

// AssertFunctions are what assert has.
var AssertFunctions = []Function{
	{"equal", "got, want, [text]", "", "The same value; tables are compared by what is in them."},
	{"differs", "got, other, [text]", "", "Not the same value."},
	{"near", "got, want, by, [text]", "", "Numbers that differ by no more than that."},
	{"less", "got, limit, [text]", "", "A number below the limit."},
	{"contains", "got, part, [text]", "", "A text that has the part in it, or a list that has the item."},
	{"fails", "function() … end, [part]", "", "The function ends with an error that has the part in it."},
}

// WorldMethods are the methods of a world.
var WorldMethods = []Function{
	{"planned", "[{ failback =, commit =, point =, set = }]", "", "A planned failover; returns the run when it does nothing by itself any more."},
	{"unplanned", "[{ source_is_down =, force =, no_shutdown =, … }]", "", "An unplanned failover."},
	{"test", "[{ unattended =, cleanup =, … }]", "", "A test failover; unattended answers waits as a drill does."},
	{"fail", "what, verb, [times], [{ maybe = }]", "", `A verb ("stop", "drain", "grant", "prepare", "start", "ready", "check", "exec", "claim", "proof", "commit", "unlock", "cleanup", "status", "found") of a machine or a host fails, once unless times is said; 0: always. What "http", "dns", "tcp" or "exec" with a part of its text fails operations of functions. A test in which nobody asks for that has failed, unless maybe = true says that it may be so.`},
	{"lose", "what, verb, [times], [{ maybe = }]", "", "As fail, but the work is done and only the answer is lost."},
	{"delay", "what, verb, duration, [{ maybe = }]", "", "As fail, but it takes that much longer."},
	{"partition", "site or host", "", "Cuts it off; machines there run on."},
	{"heal", "[site or host]", "", "Ends a partition; without a name, everything that was broken."},
	{"down", "site or host", "", "Takes its power: machines stop, agents are silent."},
	{"up", "site or host", "", "Brings it back."},
	{"crash_runtime_at", "n, [{ maybe = }]", "", "The runtime dies at the n-th journal record from now on, and another one takes over. A test that writes fewer has failed, unless maybe = true."},
	{"needs", "machine, other, …", "", "The services of a machine need those of others: they answer after them, and a start before they answer is a fault."},
	{"boot", "machine, duration", "", `How long after its start its services answer (40s); "never".`},
	{"serve", "{ http = | tcp = | dns = | exec =, status =, body =, values =, exit =, output =, down = }", "", "A server, or a program: what it answers. Else everything answers well: status 200, exit 0. A check with contains passes then, and its detail and drrun test --coverage say that the text is not proved. What nothing asks is told by drrun test --coverage."},
	{"propagate", "duration", "", "How long a change of a DNS name takes until lookups see it."},
	{"harmless", "text", "", "Operations with that text change nothing that counts: tests may do them, and they may be done twice."},
	{"expect", "text, function(run) … end", "", "drrun explore: has to be true at the end of each run that went well."},
	{"machine", "name", "", "How it stands: site; state (protected, failed-over: not committed, unprotected); power (running, stopped, unknown); answers, whether its services do; tests, how many of it stand."},
	{"record", "name, { type =, server = }", "", "Values of a DNS name, as the plan has set them."},
	{"effects", "[part]", "", "What happened, in order: list of texts that have the part in them. What only reads is not among it."},
	{"violations", "", "", "What happened and never may: list of { rule, text, step }. A test that does not ask fails when there is any."},
	{"sleep", "duration", "", "Lets time pass; runs are as they stand then."},
	{"now", "", "", "Seconds since the world began."},
}

// RunMethods are the methods of a run in a test, RunResultFields its fields.
var RunMethods = []Function{
	{"step", "name", "", "A step by its id, title, machine and verb (\"db1/start\") or a part of its id: id, status, started, ended, seconds, attempts, detail, error, reason, at."},
	{"before", "first, second", "", "Fails unless the first step had ended before the second began."},
	{"commit", "", "", "Commits it."},
	{"rollback", "", "", "Rolls it back."},
	{"cleanup", "", "", "Ends a test."},
	{"cancel", "", "", "Cancels it."},
	{"answer", "[wait], word", "", "Answers a wait: go, stop, again, done, abort."},
	{"resume", "[{ as =, source_is_down = }]", "", "Lets it go on."},
	{"golden", "name", "", "Compares its timeline with testdata/NAME.txt; drrun test --update writes it."},
}

// RunResultFields are the fields of a run in a test.
var RunResultFields = []Function{
	{"id", "", "", "Name of the run."},
	{"status", "", "", "uncommitted, committed, waiting, stopped, partial, done, rolled-back …"},
	{"reason", "", "", "Why it stands there."},
	{"type", "", "", "test, planned or unplanned."},
	{"direction", "", "", "failover or failback."},
	{"from", "", "", "Site the machines come from."},
	{"to", "", "", "Site they go to."},
	{"exit_code", "", "", "What the command ends with."},
	{"rto", "", "", "Seconds from its begin until all machines were ready."},
	{"rpo", "", "", "Seconds of data lost, of the worst machine."},
	{"errors", "", "", "List of texts."},
	{"waits", "", "", "List of names of open questions."},
	{"steps", "", "", "List of steps."},
	{"notes", "", "", "List of lines of the timeline."},
}
