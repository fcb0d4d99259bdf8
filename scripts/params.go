package scripts

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/drrun/drrun/internal/quantity"
)

// typed checks the value of a parameter, or its text from --set, and returns
// it as a string, a float64 or a bool. Durations, sizes and rates stay strings.
func typed(kind string, val any, choices []string) (any, error) {
	text, isText := val.(string)
	if len(choices) > 0 && !slices.Contains(choices, fmt.Sprint(val)) {
		return nil, fmt.Errorf("it is %v, want %s", val, oneOf(choices))
	}
	var err error
	switch kind {
	case "number":
		if _, ok := val.(float64); ok {
			return val, nil
		}
		n, err := strconv.ParseFloat(text, 64)
		if !isText || err != nil {
			return nil, fmt.Errorf("%v is no number", val)
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
