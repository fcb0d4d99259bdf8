// Package registry is the one table of the language: every constructor with
// its fields, every module with its functions, and what they are for. The
// loader checks files by it; documents and completion files are made from it.
//
// It is data, holds no behaviour and imports nothing. Read only.
package registry

// Type is the type of a field, as the loader checks it.
type Type string

// The types of fields.
const (
	String    Type = "string"
	Bool      Type = "boolean"
	Integer   Type = "whole number"
	Duration  Type = "duration"    // "5m"
	Rate      Type = "rate"        // "200Mbit/s"
	Word      Type = "word"        // one of Words
	Strings   Type = "strings"     // a string or a list of them
	Command   Type = "command"     // a list, or a string split into words
	Types     Type = "types"       // types of failover: a word or a list
	Steps     Type = "steps"       // a step or a list of them
	Record    Type = "table"       // a table with Fields
	Map       Type = "map"         // a table from names to Strings
	Address   Type = "addresses"   // ip: a table from networks to numbers or tables
	Keep      Type = "keep"        // lines of a retention
	Commit    Type = "commit"      // a word, or a table with Fields
	Any       Type = "any"         // any value
	Params    Type = "parameters"  // typed defaults
	Elsewhere Type = "unsupported" // known, not part of this build
)

// Field is a key of a constructor's body.
type Field struct {
	Name    string
	Type    Type
	Words   []string // of a Word
	Zero    bool     // of a Duration: "0s" means something
	Fields  []Field  // of a Record
	Doc     string
	Default string // as it is written, for the documents
	// Later is why this version refuses the field, or one of its words: what
	// nothing acts on must not look as if it protected anybody.
	Later      string
	LaterWords []string // the words; none: the field as a whole
}

// Scope says in which kind of file a constructor is used.
type Scope string

// The scopes.
const (
	PlanFile   Scope = "plan"
	EstateFile Scope = "estate"
)

// Body says what a constructor's body is.
type Body string

// The kinds of body.
const (
	Needed   Body = "needed"   // without it the constructor makes nothing
	Optional Body = "optional" // without it the constructor refers
	None     Body = "none"     // it only refers
)

// Constructor is a word that makes an item.
type Constructor struct {
	Name     string
	Scope    Scope
	Unnamed  bool // no name between the word and the body
	Body     Body
	Fields   []Field
	Items    []string // constructors that can stand in its body
	Function bool     // its item can be a function(run)
	Doc      string
}

// Field returns the constructor's field of that name.
func (c *Constructor) Field(name string) (Field, bool) { return find(c.Fields, name) }

func find(fields []Field, name string) (Field, bool) {
	for _, f := range fields {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}

// Names returns the names of fields.
func Names(fields []Field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

// Of returns the constructors of a scope by name.
func Of(s Scope) map[string]*Constructor {
	m := make(map[string]*Constructor)
	for i := range Constructors {
		if Constructors[i].Scope == s {
			m[Constructors[i].Name] = &Constructors[i]
		}
	}
	return m
}

// Globals are the functions that every file has beside those of Lua.
var Globals = []Function{
	{"each", "list, function(item) … end", "", "The list of what the function returns for each item, nothing left out. Lists inside lists are flattened, so it may stand among items."},
}

// Constructors is every constructor of the language.
var Constructors = append(planConstructors(), estateConstructors()...)
