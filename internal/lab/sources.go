package lab

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sources looks at every Go file of the project in root. A test that builds
// programs calls it: the go command then knows that its result depends on them,
// and does not answer from its cache when one has changed.
func Sources(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			_, err = os.Stat(path)
		}
		return err
	})
}
