-- looks.lua: programs that only look, and those that may be run again, say so:
-- no test changes anything by the former, nobody is asked about the latter.
local programs = require "drrun.exec"
local ssh = require "drrun.ssh"
local key = secret "dns-key"

return plan "looks" {
  from = "paris", to = "lyon",

  group "data" { machine "db1" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "10m" },
      exec "tell the desk" { cmd = { "desk", "note" }, skip = "test", rollback = "again" },
      exec "sign the log" { cmd = { "desk", "note" }, skip = "test", rollback = "again" },
      action "look around" {
        only = "any",
        function(run)
          local desk = programs.run { cmd = { "desk", "list" }, class = "read" }
          local unit = programs.run { on = "db1", cmd = { "systemctl", "is-active", "postgresql" }, class = "read" }
          local switch = ssh.run { host = "10.0.0.9:22", user = "look", key = key, known_hosts = "10.0.0.9 ssh-ed25519 AAAA", cmd = { "show", "arp" }, class = "read" }
          run:note(desk.output .. unit.output .. switch.output)
        end,
      },
      action "set the routes" {
        skip = "test", rollback = "again", retry = { times = 2, every = "5s" },
        function(run)
          programs.run { cmd = { "router", "set", run:machine("lb1").site }, class = "idempotent" }
          programs.run { on = "lb1", cmd = { "systemctl", "restart", "routes" }, class = "idempotent" }
          ssh.run { host = "10.0.0.9:22", user = "route", key = key, known_hosts = "10.0.0.9 ssh-ed25519 AAAA", cmd = { "route", run:machine("lb1").ip }, class = "idempotent" }
        end,
      },
      check "the routes are there" {
        function() return programs.run { cmd = { "router", "show" }, class = "read" }.exit == 0 end,
      },
    },
  },
}
