// Package syntax reads one Lua file of a plan or estate: it parses, reports
// what the tree alone shows (undeclared names, keys written twice, order on the
// page, calls in the wrong scope), rewrites the tree so that gopher-lua compiles
// it as Lua 5.1 means it, and compiles.
//
// It runs nothing and knows no plan: the words of the language are given to it.
// All functions are safe for concurrent use; a Unit is read only.
package syntax
