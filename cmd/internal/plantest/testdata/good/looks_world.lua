local function active(run) return run.status == "rolled-back" and run.from or run.to end

return function(w)
  w:needs("lb1", "db1")
  w:boot("lb1", "6m")
  w:serve { exec = "desk list", output = "a ticket" }

  w:expect("the desk was told when the balancer answered, and the log was signed", function(run)
    if run.type == "test" then return #w:effects("desk") == 0 end
    run:before("balancer answers", "tell the desk")
    run:before("tell the desk", "sign the log")
    return #w:effects("controller exec desk note") > 1
  end)
  w:expect("somebody looked around between the log and the routes", function(run)
    if run.type ~= "test" then
      run:before("sign the log", "look around")
      run:before("look around", "set the routes")
    end
    return run:step("look around").status == "done"
  end)
  w:expect("the routes lead to where the balancer is, and that is looked at", function(run)
    if run.type == "test" then return run:step("the routes are there").status == "done" end
    run:before("set the routes", "the routes are there")
    local want = { paris = "route 10.10.0.10", lyon = "route 10.20.0.10" }
    return #w:effects(want[active(run)]) > 0
  end)
end
