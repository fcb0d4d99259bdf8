-- asks.lua: one question follows another, also within one action, and each
-- answer is for one of them.
return plan "asks" {
  from = "paris", to = "lyon",

  shutdown = {
    before = wait "users are told" { ask = "Are the users told?", within = "1h", on_timeout = "continue", skip = "test" },
  },

  group "data" { machine "db1", machine "queue" },
  wait "data go" { ask = "Is the data complete?", within = "1h", skip = "test" },
  wait "workers go" { ask = "Shall the workers start?", within = "1h", on_timeout = "continue", skip = "test" },
  group "workers" {
    machine "worker1",
    after = action "ask twice" {
      only = "any",
      function(run)
        local first = run:ask("Is the front page there?", { within = "1h", unattended = "go" })
        local second = run:ask("Is the till open?", { within = "1h", unattended = "go" })
        run:note("asked: " .. tostring(first) .. ", " .. tostring(second))
      end,
    },
  },
}
