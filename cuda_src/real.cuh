// real.cuh: the number type of every kernel here, chosen when it is compiled: -DREAL=float or -DREAL=double.
#pragma once

#ifndef REAL
#define REAL float
#endif

typedef REAL real;
