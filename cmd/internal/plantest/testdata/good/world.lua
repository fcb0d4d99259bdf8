-- The world of the good plans, with what has to be true at the end of each run.
local function active(run) return run.status == "rolled-back" and run.from or run.to end

return function(w)
  w:needs("worker1", "db1", "queue")
  w:needs("worker2", "db1", "queue")
  w:needs("lb1", "worker1", "worker2")
  w:boot("db1", "6m")
  w:boot("lb1", "6m")
  w:propagate("90s")
  w:harmless("systemctl stop shop-front") -- it starts with its machine

  w:expect("the name points at the balancer", function(run)
    local want = { paris = "10.10.0.10", lyon = "10.20.0.10" }
    local got = w:record("shop.example.com")[1]
    if run.type == "test" then return got == nil end
    return got == want[active(run)]
  end)
  w:expect("the shop was closed where it ran, before a planned stop", function(run)
    local host = { paris = "par-1", lyon = "lyo-1" }
    return run.type ~= "planned" or #w:effects(host[run.from] .. " exec systemctl stop shop-front") > 0
  end)
  w:expect("the name moves only to a balancer that answers", function(run)
    if run.type ~= "test" then run:before("balancer answers", "point DNS at the active site") end
    return true
  end)
  w:expect("the name had arrived before the licence moved, and that before the ticket", function(run)
    if run.type == "test" then return true end
    run:before("the name has arrived", "move the licence")
    run:before("move the licence", "open a ticket")
    return run:step("the name has arrived").status == "done"
  end)
  w:expect("the licence has moved, once in each direction", function(run)
    return run.type == "test" or #w:effects("licence-move") > 0
  end)
  w:expect("a ticket is open", function(run)
    return run.type == "test" or #w:effects("desk.example.com") > 0
  end)
  w:expect("Finance was asked when the workers ran, and before the shop opened", function(run)
    if run.type == "test" then return true end
    run:before("worker1/ready", "go/no-go")
    run:before("worker2/ready", "go/no-go")
    run:before("go/no-go", "lb1/start")
    return true
  end)
end
