-- Planted: a check that gives the machine ten seconds.
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  group "databases" { machine "db1", },
  group "application" { machine "app1" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "10s" },
    },
  },
}
