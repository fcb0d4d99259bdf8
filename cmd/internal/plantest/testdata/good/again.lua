-- again.lua: what acts outside runs once more behind a rollback, where the
-- machines are then.
local http = require "drrun.http"

return plan "again" {
  from = "paris", to = "lyon",

  group "data" { machine "db1", machine "queue" },
  group "workers" { machines { tag = "worker" } },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "10m" },
      exec "load the routes" { on = "lb1", cmd = "systemctl reload routes", skip = "test", rollback = "again" },
      action "tell the desk" {
        skip = "test", rollback = "again",
        function(run)
          http.post("https://desk.example.com/site", {
            json = { from = run.from, to = run.to, ip = run:machine("lb1").ip, site = run:machine("lb1").site },
            headers = { ["Idempotency-Key"] = run.id .. "-" .. run.to },
          })
          run:note("the shop is at " .. run:machine("lb1").site .. ", " .. run:machine("lb1").ip .. ", and went there from " .. run.from)
        end,
      },
    },
  },
}
