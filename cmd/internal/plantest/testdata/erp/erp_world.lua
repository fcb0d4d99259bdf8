-- What the simulated world of the ERP service is like.
return function(w)
  w:needs("app1", "db1")
  w:needs("app2", "db1")
  w:needs("lb1", "app1", "app2")
  w:harmless("systemctl stop pgbouncer") -- the pooler starts with its machine
  w:boot("lb1", "90s")

  w:expect("the pooler was drained where it ran, before a planned stop", function(run)
    local host = { paris = "par-1", lyon = "lyo-1" }
    return run.type ~= "planned" or #w:effects(host[run.from] .. " exec systemctl stop pgbouncer") > 0
  end)
  w:expect("Finance was asked when the application ran, before the service opened", function(run)
    if run.type == "test" then return true end
    run:before("postgres answers", "app1/start")
    run:before("health", "go/no-go")
    run:before("go/no-go", "lb1/start")
    return true
  end)
  w:expect("the name points at a balancer that answered", function(run)
    local got = w:record("erp.example.com")[1]
    if run.type == "test" then return got == nil end
    run:before("balancer answers", "point DNS")
    run:before("point DNS", "tell the customers")
    local site = run.status == "rolled-back" and run.from or run.to
    return got == ({ paris = "10.10.0.10", lyon = "10.20.0.10" })[site]
  end)
  w:expect("the customers were told", function(run)
    return run.type == "test" or #w:effects("status.example.com") > 0
  end)
end
