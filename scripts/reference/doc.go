// Package reference makes what authors of plans look things up in from the
// registry: types for language servers, the rules of luacheck, and the pages of
// docs/lua.
//
// It is text from data: it reads no file and loads no plan.
package reference
