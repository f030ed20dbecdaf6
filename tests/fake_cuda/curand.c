/* libcurand: the provider wants to find it, and calls nothing of it. */
int curandGetVersion(int *version)
{
    *version = 10400;
    return 0;
}
