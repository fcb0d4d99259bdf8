-- What the simulated world of erp.lua is like, for drrun test and drrun explore:
-- who needs whom, and what has to be true at the end of each run.
return function(w)
  w:needs("app1", "db1")
  w:needs("app2", "db1")
  w:needs("lb1", "app1", "app2")

  w:expect("the balancer was drained before it stopped", function(run)
    if run.type ~= "planned" then
      return true
    end
    run:before("drain the balancer", "lb1/stop")
    local host = { paris = "par-1", lyon = "lyo-1" }
    return #w:effects(host[run.from] .. " exec systemctl reload haproxy") > 0
  end)
  w:expect("what clients reach was asked, one tier after the other, and Finance before the last", function(run)
    run:before("postgres answers", "app1/start")
    run:before("health", "lb1/start")
    if run.type ~= "test" then
      run:before("postgres answers", "business go/no-go")
      run:before("business go/no-go", "lb1/start")
    end
    return run:step("balancer answers").status == "done"
  end)
  w:expect("the name points at the balancer where it runs, once it answers", function(run)
    local name = w:record("erp.example.com")[1]
    if run.type == "test" then
      return name == nil
    end
    run:before("balancer answers", "point DNS at the active site")
    local address = { paris = "10.10.0.10", lyon = "10.20.0.10" }
    return name == address[run.status == "rolled-back" and run.from or run.to]
  end)
end
