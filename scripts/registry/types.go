package registry

// LuaGlobals are the globals of Lua that files have; each does only what cannot
// reach out of its file.
var LuaGlobals = []string{
	"_VERSION", "assert", "error", "getmetatable", "ipairs", "math", "next", "pairs", "pcall", "print", "rawequal",
	"rawget", "rawset", "require", "select", "setmetatable", "string", "table", "tonumber", "tostring", "type",
	"unpack", "xpcall",
}

// ArgTypes are the types of arguments and options by their names, in the words of
// LuaCATS annotations. FUNCTION.NAME goes before NAME.
var ArgTypes = map[string]string{
	"a": "string|string[]|false", "aaaa": "string|string[]|false", "accept": "integer|integer[]", "address": "string", "as": `"unplanned"`,
	"body": "string|drrun.Secret", "by": "number", "class": `"read"|"idempotent"|"unsafe"`, "cleanup": "boolean",
	"cmd": "(string|number|drrun.Secret)[]", "cname": "string|false", "commit": "boolean", "dns": "string", "down": "boolean",
	"duration": "drrun.Duration", "estate": "string", "exec": "string", "exit": "integer", "expect": `integer|integer[]|"any"`,
	"failback": "boolean", "first": "string", "force": "boolean", "got": "any", "headers": "table<string, string|drrun.Secret>",
	"host": "string", "http": "string", "json": "any", "key": "drrun.Secret", "known_hosts": "string|drrun.Secret",
	"limit": "number", "machine": "string", "maybe": "boolean", "method": "string", "n": "integer", "name": "string", "no_shutdown": "boolean",
	"on": "string", "on_timeout": `"stop"|"continue"`, "other": "any", "needs.other": "string", "output": "string", "part": "any", "pattern": "string",
	"plan": "string", "point": "string", "question": "string|drrun.Secret", "role": "string", "second": "string", "seconds": "number",
	"server": "string", "set": "table<string, string>", "sh": "string|drrun.Secret", "site_or_host": "string", "source_is_down": "boolean",
	"status": "integer", "stdin": "string|drrun.Secret", "tcp": "string", "text": "any", "times": "integer", "ttl": "drrun.Duration",
	"txt": "string|string[]|false", "type": `"A"|"AAAA"|"CNAME"|"TXT"`, "unattended": `"go"|"stop"`, "url": "string", "user": "string",
	"value": "any", "values": "table", "verb": `"stop"|"drain"|"prepare"|"start"|"ready"|"exec"`, "wait": "string", "want": "any", "what": "string",
	"with": "string", "within": "drrun.Duration", "word": `"go"|"stop"|"again"|"done"|"abort"`, "zone": "string",
	"boot.duration": `drrun.Duration|"never"`, "test.unattended": "boolean",
	"escape.text": "string", "find.text": "string", "match.text": "string", "replace.text": "string",
	"split.text": "string", "decode.text": "string", "render.text": "string|drrun.Secret", "duration.text": "drrun.Duration", "serve.values": "string[]",
}

// Returns are the types of results by function: MODULE.NAME, run.NAME for what a
// function of a plan has, test.NAME, world.NAME and result.NAME for tests. The
// others return nothing.
var Returns = map[string]string{
	"dns.lookup": "string[]", "exec.run": "drrun.ProgramResult", "ssh.run": "drrun.ProgramResult",
	"http.get": "drrun.HTTPAnswer", "http.post": "drrun.HTTPAnswer", "http.request": "drrun.HTTPAnswer",
	"json.decode": "any", "json.encode": "string|drrun.Secret",
	"re.escape": "string", "re.find": "integer?, integer?", "re.match": "table<integer|string, string>?", "re.replace": "string", "re.split": "string[]",
	"tcp.connect": "boolean, string?", "template.render": "string|drrun.Secret",
	"time.duration": "number", "time.format": "string", "time.now": "number",
	"run.id": "string", "run.type": `"test"|"planned"|"unplanned"`, "run.direction": `"failover"|"failback"`, "run.from": "string", "run.to": "string",
	"run.started_by": "string", "run.point": "string", "run.params": "table<string, any>", "run.now": "number", "run.get": "any",
	"run.ask": "boolean, string, string", "run.machine": "drrun.RunMachine",
	"test.world": "drrun.World", "world.planned": "drrun.TestRun", "world.unplanned": "drrun.TestRun", "world.test": "drrun.TestRun",
	"world.machine": "drrun.WorldMachine", "world.record": "string[]", "world.effects": "string[]", "world.violations": "table[]", "world.now": "number",
	"result.step": "table", "result.id": "string", "result.status": "string", "result.reason": "string", "result.exit_code": "integer",
	"result.rto": "number", "result.rpo": "number", "result.errors": "string[]", "result.waits": "string[]", "result.steps": "table[]", "result.notes": "string[]",
}
