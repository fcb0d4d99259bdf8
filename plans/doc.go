// Package plans is the recovery plan and the estate as data: groups, machines,
// steps, filters, policies, sites; their validation, canonical JSON and content
// hash; and the table state × operation. It knows no Lua and does no I/O.
//
// Values are built once by a front end (package scripts) and then only read;
// they are safe for concurrent reads.
package plans
