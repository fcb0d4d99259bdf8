package scripts

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/quantity"
)

// typed checks the value of a parameter, or its text from --set, and returns
// it as a string, a float64 or a bool. Durations, sizes and rates stay strings.
func typed(kind string, val any, choices []string) (any, error) {
	text, isText := val.(string)
	shown := fmt.Sprint(val)
	if n, ok := val.(float64); ok {
		shown = lua.LNumber(n).String() // as it is written on the page
	}
	if len(choices) > 0 && !slices.Contains(choices, shown) {
		return nil, fmt.Errorf("it is %s, want %s", shown, oneOf(choices))
	}
	if isText && !utf8.ValidString(text) {
		return nil, fmt.Errorf("%q is no UTF-8 text", text)
	}
	var err error
	switch kind {
	case "number":
		n, ok := val.(float64)
		if isText {
			n, err = strconv.ParseFloat(text, 64)
		}
		if err != nil || !ok && !isText || math.IsNaN(n) || math.IsInf(n, 0) {
			return nil, fmt.Errorf("%s is no number", shown)
		}
		return n, nil
	case "boolean":
		if _, ok := val.(bool); ok {
			return val, nil
		}
		if text == "true" || text == "false" {
			return text == "true", nil
		}
		return nil, fmt.Errorf("%v is neither true nor false", val)
	case "duration":
		_, err = quantity.ParseDuration(text)
	case "size":
		_, err = quantity.ParseSize(text)
	case "rate":
		_, err = quantity.ParseRate(text)
	}
	if !isText {
		return nil, fmt.Errorf("%v is no %s", val, kind)
	}
	return text, err
}
