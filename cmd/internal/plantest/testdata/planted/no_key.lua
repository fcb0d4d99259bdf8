-- Planted: the request has no idempotency key of its own, and says another time each time, so the engine cannot
-- know it again. When its answer is lost the ticket is opened twice.
local http = require "drrun.http"
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  group "databases" { machine "db1", },
  group "application" { machine "app1" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
      action "open a ticket" {
        skip = "test", rollback = "again",
        function(run)
          http.post("https://desk.example.com/tickets", { json = { site = run.to, at = run:now() } })
        end,
      },
    },
  },
}
