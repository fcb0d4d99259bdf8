-- Planted: nobody answers this wait in a drill.
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  group "databases" { machine "db1", },
  group "application" { machine "app1" },
  wait "go/no-go" { ask = "Does the shop sell?", within = "1h" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
    },
  },
}
