-- Planted: what only an unplanned run does where the source answers is not safe to repeat.
local exec = require "drrun.exec"
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  shutdown = {
    before = action "move the licence" {
      only = "unplanned", retry = { times = 2, every = "5s" },
      function() exec.run { on = "lb1", cmd = { "systemctl", "start", "licence-move" } } end,
    },
  },

  group "databases" { machine "db1", },
  group "application" { machine "app1" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
    },
  },
}
