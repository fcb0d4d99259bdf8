return function(w)
  w:needs("worker1", "db1", "queue")
end
