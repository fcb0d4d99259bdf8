-- Planted: a step of every failover needs a host of the site that is lost in an unplanned one.
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",
  failover = {
    before = exec "stop the timers" { on = "par-1", cmd = "systemctl stop timers", only = "any" },
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
