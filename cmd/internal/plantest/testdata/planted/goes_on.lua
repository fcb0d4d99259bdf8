-- Planted: the check of the database may fail, and the application is started on it all the same.
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  group "databases" { machine "db1",
    after = check "the database is the leader" { tcp = "db1:8008", on_fail = "continue" },
  },
  group "application" { machine "app1" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
    },
  },
}
