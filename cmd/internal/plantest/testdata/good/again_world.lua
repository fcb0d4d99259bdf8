local function active(run) return run.status == "rolled-back" and run.from or run.to end

return function(w)
  w:needs("worker1", "db1", "queue")
  w:needs("worker2", "db1", "queue")
  w:needs("lb1", "worker1", "worker2")
  w:boot("lb1", "6m")

  w:expect("the balancer that answers has its routes, and the desk was told behind that", function(run)
    if run.type == "test" then return #w:effects("routes") == 0 end
    run:before("balancer answers", "load the routes")
    run:before("load the routes", "tell the desk")
    local host = { paris = "par-1", lyon = "lyo-1" }
    return #w:effects(host[active(run)] .. " exec systemctl reload routes") > 0 and #w:effects("desk.example.com") > 0
  end)
end
