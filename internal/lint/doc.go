// Package lint is the house rules as plain Go tests: who may import whom, one
// door per library, package comments, sizes, forbidden calls. The tables it
// holds the tree to stand in ARCHITECTURE.md; each broken rule prints its
// reason. It has no code outside of tests.
package lint
